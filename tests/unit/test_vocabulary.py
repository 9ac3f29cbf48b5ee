from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vsa_ray import storage
from vsa_ray.vocabulary import END, Vocabulary, tokenise

SENTENCES = [["a", "red", "ball"], ["a", "blue", "ball"], ["a", "red", "kite"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's T-shirt .", ["a", "mans", "tshirt"]),
        ("  Two   dogs\trun \n", ["two", "dogs", "run"]),
        ("snow_board # 28", ["snowboard", "28"]),
        ("Café ÉCOLE", ["café", "école"]),
        ("cafe\N{COMBINING ACUTE ACCENT}s", ["cafés"]),
        ("लाल गेंद, कुत्ता।", ["लाल", "गेंद", "कुत्ता"]),
        ("\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16} ½ _", ["½"]),
        (" . , ! ", []),
        ("", []),
    ],
)
def test_tokenise(text: str, words: list[str]) -> None:
    assert tokenise(text) == words


def test_build_puts_frequent_words_first_and_ties_in_order_of_the_alphabet() -> None:
    vocabulary = Vocabulary.build(SENTENCES, min_count=1)
    assert vocabulary.words == ("a", "ball", "red", "blue", "kite")
    assert vocabulary.counts == (3, 2, 2, 1, 1)
    assert vocabulary == Vocabulary.build(SENTENCES[::-1], min_count=1)


def test_build_keeps_words_at_min_count() -> None:
    vocabulary = Vocabulary.build(SENTENCES, min_count=2)
    assert vocabulary.words == ("a", "ball", "red")
    assert len(vocabulary) == 4  # and END


@pytest.mark.parametrize("sentences", [[], SENTENCES])
def test_build_without_a_frequent_word(sentences: list[list[str]]) -> None:
    with pytest.raises(
        ValueError, match=f"no word occurs 4 times in {len(sentences)} training sentences"
    ):
        Vocabulary.build(sentences, min_count=4)


def test_encode_leaves_rare_words_out() -> None:
    vocabulary = Vocabulary.build(SENTENCES, min_count=2)
    words = ["a", "blue", "ball", "red", "zebra"]
    assert vocabulary.encode(words).tolist() == [1, 2, 3]
    assert vocabulary.known(words) == [0, 2, 3]
    assert vocabulary.encode([]).tolist() == []
    assert vocabulary.encode([]).dtype == np.int64


def test_decode_stops_at_the_end() -> None:
    vocabulary = Vocabulary.build(SENTENCES, min_count=2)
    assert vocabulary.decode([1, 3, 2, END, 1]) == ["a", "red", "ball"]
    assert vocabulary.decode([END]) == []
    assert vocabulary.decode(vocabulary.encode(["a", "ball"])) == ["a", "ball"]


def test_log_frequencies() -> None:
    logs = Vocabulary.build(SENTENCES, min_count=2).log_frequencies()
    shares = np.array([3, 3, 2, 2]) / 10  # END once a sentence, a, ball, red
    np.testing.assert_allclose(np.exp(logs), shares, rtol=1e-6)
    assert np.exp(logs.astype(np.float64)).sum() == pytest.approx(1)


def test_load_reads_what_save_wrote(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(SENTENCES, min_count=1)
    vocabulary.save(f"{tmp_path}/vocabulary.json")
    loaded = Vocabulary.load(f"{tmp_path}/vocabulary.json")
    assert loaded == vocabulary
    assert loaded.encode(["kite"]).tolist() == [5]


@pytest.mark.parametrize("value", [[], {}, {"words": ["a"], "counts": None, "sentences": 1}])
def test_load_refuses_other_json(tmp_path: Path, value: object) -> None:
    storage.write_json(f"{tmp_path}/v.json", value)
    with pytest.raises(storage.StorageError, match=r"v\.json: not a vocabulary file"):
        Vocabulary.load(f"{tmp_path}/v.json")
