"""The real Flickr8k, with the boxes of Flickr30k Entities."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from vsa_ray.corpora import Corpus, ReaderConfig, read_corpus
from vsa_ray.vocabulary import Vocabulary

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def corpus(vsa_data: Path, flickr8k: Path) -> Corpus:
    entities = vsa_data / "data" / "flickr30k_entities"
    if not entities.is_dir():
        pytest.skip(f"{vsa_data}: no data/flickr30k_entities in it")
    return read_corpus(str(flickr8k), ReaderConfig(phrases=str(entities)))


def test_splits(corpus: Corpus) -> None:
    assert Counter(corpus.images["split"].to_pylist()) == {
        **{"train": 6000, "dev": 1000, "test": 1000, "": 91},
    }


def test_every_image_has_its_five_sentences(corpus: Corpus) -> None:
    per_image = Counter(corpus.sentences["image_id"].to_pylist())
    assert set(per_image) == set(corpus.images["image_id"].to_pylist())
    assert set(per_image.values()) == {5}


def test_oddities(corpus: Corpus) -> None:
    """The five sentences are of 2258277193_586949ec62.jpg.1, a name without an image."""
    assert corpus.oddities == {
        "image in no split": 91,
        "sentence with phrases that is not in the corpus": 1126,
        "sentence without an image": 5,
    }


def test_vocabulary(corpus: Corpus) -> None:
    """One word fewer than the paper's 2,538."""
    train = corpus.sentences.filter(pc.field("split") == "train")
    vocabulary = Vocabulary.build(train["words"].to_pylist(), min_count=5)
    assert len(vocabulary.words) == 2537
    assert vocabulary.words[:3] == ("a", "in", "the")


def test_phrases(corpus: Corpus) -> None:
    per_split: Counter[str] = Counter()
    for row in corpus.phrases.select(["split", "words", "width", "height", "phrases"]).to_pylist():
        per_split[row["split"]] += len(row["phrases"])
        for phrase in row["phrases"]:
            assert 0 <= phrase["first"] < phrase["stop"] <= len(row["words"])
            for x1, y1, x2, y2 in phrase["boxes"]:
                assert 0 <= x1 < x2 <= row["width"]
                assert 0 <= y1 < y2 <= row["height"]
    assert per_split == {"train": 77911, "dev": 13123, "test": 13063, "": 1010}
