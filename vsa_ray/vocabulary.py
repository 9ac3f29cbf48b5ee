"""From sentences to words to ids, and back.

The paper's rules: lower case, only letters and digits, only words that occur at least five times in
the *training* split. Rarer words are removed from sentences, not replaced.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vsa_ray import storage
from vsa_ray.errors import UserError

END = 0
"""The id that ends a sentence, and, as an input, the one that starts it. It is not a word's id."""

_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")


def tokenise(text: str) -> list[str]:
    """Lower-case words of letters and digits; "A man's T-shirt ." -> ["a", "mans", "tshirt"].

    Accents and vowel signs stay on their letters, in Unicode's composed form (NFC): the two ways of
    writing "é" are one word, and words of Hindi or Thai stay whole.
    """
    words = map(_alphanumeric, unicodedata.normalize("NFC", text.lower()).split())
    return [word for word in words if word]


def _alphanumeric(word: str) -> str:
    """The letters and digits of a word, with the marks on them."""
    if word.isascii():
        return _NOT_ALPHANUMERIC.sub("", word)
    kept, on_letter = "", False
    for character in word:
        is_mark = unicodedata.category(character) in ("Mn", "Mc")  # to \w these are no letters
        if on_letter := character.isalnum() or (is_mark and on_letter):
            kept += character
    return kept


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    min_count: int = 5
    """Minimum number of occurrences in the training sentences for a word to be known to the models.
    Rarer words are removed from sentences. Lower it for a small corpus."""

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"VocabularyConfig.min_count must be >= 1, got {self.min_count}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words a model knows, most frequent first, with their counts."""

    words: tuple[str, ...]
    counts: tuple[int, ...]
    sentences: int
    """Number of counted sentences, which is the count of END."""

    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {word: i for i, word in enumerate(self.words, start=1)})

    @classmethod
    def build(cls, sentences: Iterable[Sequence[str]], *, min_count: int) -> Vocabulary:
        """Build from tokenised sentences of the training split.

        Raises:
            UserError: no word is frequent enough.
        """
        counts: Counter[str] = Counter()
        total = 0
        for words in sentences:
            counts.update(words)
            total += 1
        # Ties are ordered alphabetically, so that ids do not depend on the order of sentences.
        kept = sorted(
            ((word, n) for word, n in counts.items() if n >= min_count),
            key=lambda item: (-item[1], item[0]),
        )
        if not kept:
            raise UserError(
                f"no word occurs {min_count} times in {total} training sentences; "
                "lower min_count, or check that the corpus has a train split"
            )
        return cls(tuple(word for word, _ in kept), tuple(n for _, n in kept), total)

    @classmethod
    def of(cls, sentences: pa.Table, config: VocabularyConfig) -> Vocabulary:
        """The vocabulary of a `sentences` table, which must only contain the training split."""
        return cls.build(sentences["words"].to_pylist(), min_count=config.min_count)

    def __len__(self) -> int:
        """Number of ids: all words and END."""
        return len(self.words) + 1

    def encode(self, words: Sequence[str]) -> npt.NDArray[np.int64]:
        """Ids of the known words, in order, without unknown ones."""
        return np.array([self._ids[word] for word in words if word in self._ids], dtype=np.int64)

    def known(self, words: Sequence[str]) -> list[int]:
        """Positions of the words that `encode` keeps."""
        return [position for position, word in enumerate(words) if word in self._ids]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words for a sequence of ids, up to the first END."""
        words = []
        for i in ids:
            if i == END:
                break
            words.append(self.words[i - 1])
        return words

    def log_frequencies(self) -> npt.NDArray[np.float32]:
        """(V,) log of each id's relative frequency among all training tokens, including END."""
        counts = np.array([self.sentences, *self.counts], dtype=np.float64)
        logs: npt.NDArray[np.float32] = np.log(counts / counts.sum()).astype(np.float32)
        return logs

    def save(self, uri: str) -> None:
        storage.write_json(
            uri,
            {"sentences": self.sentences, "words": list(self.words), "counts": list(self.counts)},
        )

    @classmethod
    def load(cls, uri: str) -> Vocabulary:
        """Raises storage.StorageError if the file is not a vocabulary."""
        value = storage.read_json(uri)
        try:
            return cls(tuple(value["words"]), tuple(value["counts"]), int(value["sentences"]))
        except (KeyError, TypeError, ValueError) as error:
            raise storage.StorageError(f"{uri}: not a vocabulary file ({error!r})") from error
