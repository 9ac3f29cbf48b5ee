"""What a detector's classes say of words, learned from images and sentences side by side."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vsa_ray.alignment import label_words, labels
from vsa_ray.alignment.labels import MOST_EVIDENCE
from vsa_ray.vocabulary import Vocabulary


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(("a", "puppy", "toy", "here"), (9, 5, 5, 4), 9)


def seen(*images: tuple[str, dict[str, float]]) -> pa.Table:
    return pa.table(
        {
            "image_id": [image_id for image_id, _ in images],
            "labels": [["", *found] for _, found in images],
            "scores": [[1.0, *found.values()] for _, found in images],
        }
    )


def said(*sentences: tuple[str, str]) -> pa.Table:
    return pa.table(
        {
            "image_id": [image_id for image_id, _ in sentences],
            "words": [text.split() for _, text in sentences],
        }
    )


def test_a_word_belongs_to_the_class_that_it_comes_with(vocabulary: Vocabulary) -> None:
    regions = seen(
        ("1", {"dog": 0.9, "ball": 0.8}),
        ("2", {"dog": 0.9}),
        ("3", {"ball": 0.9}),
        ("4", {}),
    )
    sentences = said(
        ("1", "a puppy a toy"), ("2", "a puppy here"), ("3", "a toy here"), ("4", "a here here")
    )
    found = label_words([regions.slice(0, 2), regions.slice(2)], sentences, vocabulary)
    assert found.classes == {"ball": 0, "dog": 1, "": 2}
    words = vocabulary.encode(["a", "puppy", "toy", "here"])
    evidence_TR = found.evidence(words, ["dog", "ball", "", "zebra"])
    # Both stood in image 1; the other images tell which word is whose.
    assert evidence_TR[1, 0] > 0.5 > 0 > evidence_TR[1, 1]
    assert evidence_TR[2, 1] > 0.5 > 0 > evidence_TR[2, 0]
    # What no class explains speaks for the whole image.
    assert evidence_TR[3, 2] > 0.5 > 0 > evidence_TR[3, :2].max()
    assert (evidence_TR[:, 3] == 0).all()  # a class that training never met
    assert found.columns(["", "dog", "zebra"]).tolist() == [2, 1, 3]
    assert np.abs(evidence_TR).max() <= MOST_EVIDENCE


def test_probabilities_are_those_of_model_1(vocabulary: Vocabulary) -> None:
    """One class in every image: a word is its translation as often as it stands there."""
    regions = seen(("1", {"dog": 0.5}), ("2", {"dog": 0.5}))
    sentences = said(("1", "a puppy"), ("2", "a toy"), ("absent", "here"))
    found = label_words([regions], sentences, vocabulary)
    evidence_T1 = found.evidence(vocabulary.encode(["a", "puppy", "toy"]), ["dog"])
    np.testing.assert_allclose(evidence_T1, 0, atol=0.01)


def test_words_in_blocks_teach_the_same(
    regions: pa.Table, sentences: pa.Table, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = label_words([regions], sentences, vocabulary)
    monkeypatch.setattr(labels, "WORDS_AT_ONCE", 2)
    found = label_words([regions], sentences, vocabulary)
    np.testing.assert_allclose(found.evidence_VL, whole.evidence_VL, atol=1e-6)
    assert np.abs(whole.evidence_VL).max() > 0.1


def test_failed_images_are_no_trouble(
    regions: pa.Table, sentences: pa.Table, vocabulary: Vocabulary
) -> None:
    assert pc.any(pc.equal(regions["status"], "unreadable")).as_py()
    found = label_words([regions], sentences, vocabulary)
    assert set(found.classes) == {"dog", "ball", ""}
