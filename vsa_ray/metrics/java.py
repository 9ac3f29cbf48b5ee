"""The two Java programs behind the published caption scores: a tokeniser, and METEOR.

pycocoevalcap ships both as jars with Python wrappers. We use its jars but not its wrappers, which
write into the installed package, print to stderr, depend on the machine's locale (METEOR fails with
a decimal comma), and block for ever on a lock once METEOR has failed.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Timer

from pycocoevalcap.meteor import meteor as meteor_module
from pycocoevalcap.tokenizer import ptbtokenizer as ptb_module

# The same text on every machine; command-line options override JAVA_TOOL_OPTIONS.
_JAVA = ["java", "-Duser.language=en", "-Dfile.encoding=UTF-8"]
_PTB_JAR = Path(ptb_module.__file__).with_name(ptb_module.STANFORD_CORENLP_3_4_1_JAR)
_METEOR_JAR = Path(meteor_module.__file__).with_name(meteor_module.METEOR_JAR)
_PUNCTUATION = frozenset(ptb_module.PUNCTUATIONS)

TIMEOUT_SECONDS = 1800.0
"""After this time a Java program counts as hung. METEOR needs 15 CPU seconds just to start."""


class JavaError(RuntimeError):
    """Java is not installed, or one of the two programs failed."""


def ptb_tokenise(sentences: Sequence[str]) -> list[str]:
    """Lower-case Penn Treebank tokens without punctuation, separated by spaces.

    Raises:
        JavaError
    """
    # str.split removes all Unicode line separators: one inside a sentence would shift all lines
    # after it.
    lines = "".join(" ".join(sentence.split()) + "\n" for sentence in sentences)
    program = ["-cp", str(_PTB_JAR), "edu.stanford.nlp.process.PTBTokenizer"]
    try:
        done = subprocess.run(
            [*_JAVA, *program, "-preserveLines", "-lowerCase"],
            input=lines,
            capture_output=True,
            check=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        raise JavaError(f"the PTB tokeniser failed: {_complaint(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JavaError(f"the PTB tokeniser did not run: {error}") from error
    tokenised = done.stdout.removesuffix("\n").split("\n")
    if len(tokenised) != len(sentences):
        raise JavaError(
            f"the PTB tokeniser returned {len(tokenised)} lines for {len(sentences)} sentences"
        )
    return [
        " ".join(word for word in line.split() if word not in _PUNCTUATION) for line in tokenised
    ]


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus-level METEOR 1.5 of tokenised sentences, between 0 and 1.

    Raises:
        JavaError
    """
    program = ["-Xmx2G", "-jar", str(_METEOR_JAR)]
    command = [*_JAVA, *program, "-", "-", "-stdio", "-l", "en", "-norm"]
    # A file, since METEOR would block on a full pipe.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            with subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            ) as process:
                return _meteor(process, hypotheses, references)
        except (OSError, ValueError) as error:
            errors.seek(0)
            raise JavaError(f"METEOR failed: {error}. {_complaint(errors.read())}") from error


def _meteor(
    process: subprocess.Popen[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
) -> float:
    """Query a running METEOR: a line of statistics per sentence, then the score of all lines."""
    watchdog = Timer(TIMEOUT_SECONDS, process.kill)
    watchdog.start()
    try:
        statistics = [
            _ask(process, "SCORE", *own, hypothesis)
            for hypothesis, own in zip(hypotheses, references, strict=True)
        ]
        _ask(process, "EVAL", *statistics)  # answers with the score of every sentence, ...
        for _ in statistics[1:]:
            _answer(process)
        return float(_answer(process))  # ... then with that of the corpus
    finally:
        watchdog.cancel()
        process.kill()


def _ask(process: subprocess.Popen[str], *fields: str) -> str:
    assert process.stdin is not None
    line = " ||| ".join(field.replace("|||", " ") for field in fields)
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return _answer(process)


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BrokenPipeError(f"it ended early, or was stopped after {TIMEOUT_SECONDS:.0f} s")
    return line.rstrip("\n")


def _complaint(text: str) -> str:
    """The last line that is not a frame of Java's stack trace."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("\tat ")]
    return lines[-1] if lines else ""
