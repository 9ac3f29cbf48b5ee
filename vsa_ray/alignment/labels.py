"""Which words go with which detector classes: IBM Model 1 (Brown et al. 1993).

Every word of a training sentence is treated as the translation of one class detected in its image,
or of nothing. Expectation maximisation finds the probabilities of words given a class without
knowing which class a word translates. Words without a matching class ("water") turn out to
translate nothing: they are evidence for the region without a class, the whole image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vsa_ray.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]

ITERATIONS = 12

NOTHING = 0.5
"""Weight of "nothing" in every image; a class weighs as much as its most confident box."""

WORDS_AT_ONCE = 100_000
"""Words whose class posteriors are in memory at the same time."""

WHOLE_IMAGE = ""
"""The label of regions without a class."""

LEAST = 1e-5
"""Added to probabilities, so that their logarithms stay finite."""

MOST_EVIDENCE = 3.0
"""Limit on the evidence of a single word, for or against: rare words have few examples."""


@dataclass(frozen=True, slots=True)
class LabelWords:
    """How much more likely a word is given a class than overall."""

    classes: dict[str, int]
    """Class names, including WHOLE_IMAGE, -> columns."""

    evidence_VL: Floats
    """log p(word | class) / p(word), clipped to +-MOST_EVIDENCE; the last column, all 0, is for
    classes not seen in training."""

    def evidence(self, ids_T: npt.NDArray[np.int64], labels: Sequence[str]) -> Floats:
        """(T, R) evidence for known words and the labels of regions."""
        return self.evidence_VL[ids_T][:, self.columns(labels)]

    def columns(self, labels: Sequence[str]) -> npt.NDArray[np.int64]:
        """(R,) columns of evidence_VL."""
        return np.array([self.classes.get(label, len(self.classes)) for label in labels], np.int64)


def label_words(
    regions: Iterable[pa.Table], sentences: pa.Table, vocabulary: Vocabulary
) -> LabelWords:
    """Learn from the train split.

    Args:
        regions: image_id, labels and scores of schema.REGIONS, in blocks.
        sentences: those of the same images.
    """
    present = _present(regions)
    names = sorted({label for of_image in present.values() for label in of_image})
    classes = {name: column for column, name in enumerate([*names, WHOLE_IMAGE])}
    presence_BL = np.zeros((len(present), len(classes)))
    for row, of_image in zip(presence_BL, present.values(), strict=True):
        for label, score in {**of_image, WHOLE_IMAGE: NOTHING}.items():
            row[classes[label]] = score
    image_of = {image_id: row for row, image_id in enumerate(present)}
    columns = sentences["image_id"].to_pylist(), sentences["words"].to_pylist()
    encoded = [
        (image_of[image_id], np.unique(vocabulary.encode(words)))
        for image_id, words in zip(*columns, strict=True)
        if image_id in image_of
    ]
    words_W = np.concatenate([ids for _, ids in encoded])
    images_W = np.repeat([image for image, _ in encoded], [len(ids) for _, ids in encoded])
    likely_VL = _translate(words_W, images_W, presence_BL, len(vocabulary))
    overall_V = np.bincount(words_W, minlength=len(vocabulary)) / len(words_W)
    evidence_VL = np.log((likely_VL + LEAST) / (overall_V[:, None] + LEAST))
    evidence_VL = np.pad(evidence_VL, ((0, 0), (0, 1))).clip(-MOST_EVIDENCE, MOST_EVIDENCE)
    return LabelWords(classes, evidence_VL.astype(np.float32))


def _present(regions: Iterable[pa.Table]) -> dict[str, dict[str, float]]:
    """For each image, the highest score of each class in it."""
    present: dict[str, dict[str, float]] = {}
    for block in regions:
        for row in block.select(["image_id", "labels", "scores"]).to_pylist():
            of_image = present.setdefault(row["image_id"], {})
            for label, score in zip(row["labels"], row["scores"], strict=True):
                if label:
                    of_image[label] = max(score, of_image.get(label, 0.0))
    return present


def _translate(
    words_W: npt.NDArray[np.int64],
    images_W: npt.NDArray[np.int64],
    presence_BL: npt.NDArray[np.float64],
    vocabulary: int,
) -> npt.NDArray[np.float64]:
    """p(word | class) -> (V, L); each column sums to 1."""
    likely_VL = np.full((vocabulary, presence_BL.shape[1]), 1 / vocabulary)
    blocks = [slice(at, at + WORDS_AT_ONCE) for at in range(0, len(words_W), WORDS_AT_ONCE)]
    for _ in range(ITERATIONS):
        counts_VL = np.zeros_like(likely_VL)
        for some in blocks:
            share_wL = likely_VL[words_W[some]] * presence_BL[images_W[some]]
            share_wL /= share_wL.sum(axis=1, keepdims=True)
            np.add.at(counts_VL, words_W[some], share_wL)
        likely_VL = (counts_VL + 1e-3) / (counts_VL + 1e-3).sum(axis=0)
    return likely_VL
