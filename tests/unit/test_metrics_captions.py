from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from vsa_ray.metrics import captions, cider, java, nearest_neighbour_captions, score_captions

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")

HYPOTHESES = {"cat": "The cat the cat on the mat .", "dog": "A dog"}
REFERENCES = {
    "cat": ["The cat is on the mat.", "There is a cat on the mat"],
    "dog": ["A dog runs fast"],
}

# Stand-ins for a java that is broken in one way or another; where the tokeniser works, it echoes.
METEOR_FAILS = r"""#!/bin/sh
case "$*" in *PTBTokenizer*) exec /bin/cat;; esac
printf 'Exception: no memory\n\tat Meteor.main\n' >&2; exit 3
"""
METEOR_HANGS = """#!/bin/sh
case "$*" in *PTBTokenizer*) exec /bin/cat;; esac
exec /bin/sleep 600
"""
METEOR_WRITES_COMMAS = r"""#!/bin/sh
case "$*" in *PTBTokenizer*) exec /bin/cat;; esac
while read -r line; do printf '0,5\n0,5\n0,5\n'; done
"""
TOKENISER_FAILS = """#!/bin/sh
echo "Error: could not find or load main class" >&2; exit 1
"""
TOKENISER_DROPS_LINES = """#!/bin/sh
echo "one line"
"""


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def fake_java(monkeypatch, tmp_path):
    def install(script: str) -> None:
        program: Path = tmp_path / "java"
        program.write_text(script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


def test_bleu_by_hand(no_java):
    """Both images together: n-grams clipped to a reference's count, then the brevity penalty."""
    precisions = [(5 + 2) / (7 + 2), (4 + 1) / (6 + 1), 2 / 5, 1 / 4]
    brevity = math.exp(1 - (7 + 4) / (7 + 2))  # the closest reference is 7 words, then 4
    scores = score_captions(HYPOTHESES, REFERENCES)
    for n, bleu in enumerate([scores.bleu1, scores.bleu2, scores.bleu3, scores.bleu4], start=1):
        expected = 100 * brevity * math.prod(precisions[:n]) ** (1 / n)
        assert bleu == pytest.approx(expected, rel=1e-6), f"BLEU-{n}"


def test_rouge_by_hand(no_java):
    """The longest common subsequence: "the cat on the mat" and "a dog", with beta = 1.2."""
    f_scores = [
        (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
        for precision, recall in [(5 / 7, 5 / 6), (2 / 2, 2 / 4)]
    ]
    scores = score_captions(HYPOTHESES, REFERENCES)
    assert scores.rouge_l == pytest.approx(100 * np.mean(f_scores))


def test_cider_of_copies_and_of_strangers(no_java):
    references = {"cat": ["a black cat sleeps"], "dog": ["two brown dogs play"]}
    copies = {image: sentences[0] for image, sentences in references.items()}
    assert score_captions(copies, references).cider == pytest.approx(1000)
    swapped = {"cat": copies["dog"], "dog": copies["cat"]}
    assert score_captions(swapped, references).cider == 0


def test_cider_of_words():
    captions_of_two = [["a", "black", "cat", "sleeps"], []]
    references = [[["a", "black", "cat", "sleeps"]], [["two", "dogs"]]]
    assert cider(captions_of_two, references) == pytest.approx(500)
    with pytest.raises(ValueError, match="no captions"):
        cider([], [])
    with pytest.raises(ValueError, match="shorter"):
        cider(captions_of_two, references[:1])


def test_without_java_the_result_says_so(no_java, caplog):
    scores = score_captions(HYPOTHESES, REFERENCES)
    assert scores.tokenizer == "vsa_ray"
    assert scores.meteor is None
    assert "is Java installed?" in caplog.text


def test_an_empty_caption_is_counted(no_java):
    scores = score_captions(
        {"cat": "a black cat", "dog": ""}, {"cat": ["a black cat"], "dog": ["a dog"]}
    )
    assert scores.rouge_l == pytest.approx(50)
    assert scores.bleu1 == pytest.approx(100 * math.exp(1 - 5 / 3), rel=1e-6)


def test_the_libraries_print_nothing(no_java, capfd):
    score_captions(HYPOTHESES, REFERENCES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("script", [TOKENISER_FAILS, TOKENISER_DROPS_LINES])
def test_a_tokeniser_that_fails_falls_back_to_ours(fake_java, caplog, script):
    fake_java(script)
    scores = score_captions(HYPOTHESES, REFERENCES)
    assert (scores.tokenizer, scores.meteor) == ("vsa_ray", None)
    assert "the PTB tokeniser" in caplog.text


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (METEOR_FAILS, "Exception: no memory. METEOR is omitted"),
        (METEOR_HANGS, "stopped after 1 s"),
        (METEOR_WRITES_COMMAS, "could not convert"),
    ],
)
def test_a_meteor_that_fails_is_left_out(fake_java, caplog, monkeypatch, script, message):
    monkeypatch.setattr(java, "TIMEOUT_SECONDS", 1.0)
    fake_java(script)
    scores = score_captions(HYPOTHESES, REFERENCES)
    assert (scores.tokenizer, scores.meteor) == ("ptb", None)
    assert message in caplog.text


@needs_java
def test_ptb_tokens():
    sentences = [
        "A man's T-shirt .",
        "",
        "Two dogs (brown), run -- fast!",
        "a\nb\r\u2028c",
        "Café 3/4",
    ]
    # Brackets stay: the published list of punctuation has them in capitals, the tokens are not.
    dogs = "two dogs -lrb- brown -rrb- run fast"
    expected = ["a man 's t-shirt", "", dogs, "a b c", "café 3/4"]
    assert java.ptb_tokenise(sentences) == expected


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ({}, {}, "no captions"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, "image 'b' has no caption"),
        ({"a": "x", "b": "y"}, {"a": ["x"]}, "image 'b' has no reference"),
        ({"a": "x"}, {"a": []}, "no reference sentence: image 'a'"),
    ],
)
def test_captions_that_do_not_fit(hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        score_captions(hypotheses, references)


@pytest.mark.parametrize("block", [1, 1 << 24])
def test_nearest_neighbour_equals_plain_loops(monkeypatch, block):
    monkeypatch.setattr(captions, "_BLOCK_DISTANCES", block)
    rng = np.random.default_rng(0)
    train_NF = rng.normal(size=(30, 8)).astype(np.float16)
    test_BF = rng.normal(size=(7, 8)).astype(np.float16)
    sentences = [[f"first of {n}", f"second of {n}"] for n in range(30)]
    expected = []
    for test in test_BF.astype(np.float64):
        distances = [math.dist(test, train) for train in train_NF.astype(np.float64)]
        expected.append(f"first of {distances.index(min(distances))}")
    assert nearest_neighbour_captions(test_BF, train_NF, sentences) == expected


def test_nearest_neighbour_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"4 wide.*5; both must come from the same backbone"):
        nearest_neighbour_captions(np.ones((1, 4)), np.ones((2, 5)), [["a"], ["b"]])
    with pytest.raises(ValueError, match=r"2 training images need a sentence each, got 1 .* of 1"):
        nearest_neighbour_captions(np.ones((1, 4)), np.ones((2, 4)), [["a"]])
    with pytest.raises(ValueError, match=r"2 training images need a sentence each, got 1 .* of 2"):
        nearest_neighbour_captions(np.ones((1, 4)), np.ones((2, 4)), [["a"], []])
    with pytest.raises(ValueError, match="0 training images"):
        nearest_neighbour_captions(np.ones((1, 4)), np.ones((0, 4)), [])
