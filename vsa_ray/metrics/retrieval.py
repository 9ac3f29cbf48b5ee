"""Retrieval of sentences by images and of images by sentences (the paper's section 7).

Image annotation: an image ranks all sentences, and its best-ranked own sentence counts. Image
search: a sentence ranks all images. Ranks start at 1. Ties count against the model: a false item
with the same score as the true one ranks before it, so a model with constant scores gains nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.integer[Any]]

_BLOCK_SCORES = 1 << 20
"""Scores compared at once: the comparison takes a megabyte for a matrix of any size."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Summary of the ranks of the true items."""

    r1: float
    """Percentage of queries with a true item in first place."""

    r5: float
    """The same for the top 5."""

    r10: float

    median_rank: float
    """Median over queries of the rank of the best-ranked true item, starting at 1."""

    @classmethod
    def of_ranks(cls, ranks_Q: Indices) -> Recall:
        r1, r5, r10 = (100.0 * float(np.mean(ranks_Q <= k)) for k in (1, 5, 10))
        return cls(r1, r5, r10, float(np.median(ranks_Q)))


def image_annotation(scores_BC: Scores, image_of_C: Indices) -> Recall:
    """Every image as a query for its own sentences.

    Args:
        scores_BC: scores of B images and C sentences, higher is better; may be infinite.
        image_of_C: the row of `scores_BC` that each sentence belongs to.

    Raises:
        ValueError: NaN scores, an image without a sentence, or shapes that do not fit.
    """
    return Recall.of_ranks(annotation_ranks(scores_BC, image_of_C))


def image_search(scores_BC: Scores, image_of_C: Indices) -> Recall:
    """Every sentence as a query for its own image; arguments and errors as `image_annotation`."""
    return Recall.of_ranks(search_ranks(scores_BC, image_of_C))


def annotation_ranks(scores_BC: Scores, image_of_C: Indices) -> npt.NDArray[np.int64]:
    """(B,) rank of each image's best own sentence among all false ones."""
    own_C = _own_scores(scores_BC, image_of_C)
    best_B = np.full(len(scores_BC), -np.inf, dtype=scores_BC.dtype)
    np.maximum.at(best_B, image_of_C, own_C)

    ranks_B = np.empty(len(scores_BC), dtype=np.int64)
    for rows in _blocks(scores_BC):
        ranks_B[rows] = np.count_nonzero(scores_BC[rows] >= best_B[rows, None], axis=1)
    # This counts false sentences ranked before the best own one, and own ones tied with it.
    own_B = np.bincount(image_of_C[own_C >= best_B[image_of_C]], minlength=len(scores_BC))
    return ranks_B - own_B + 1


def search_ranks(scores_BC: Scores, image_of_C: Indices) -> npt.NDArray[np.int64]:
    """(C,) rank of each sentence's image among all images."""
    own_C = _own_scores(scores_BC, image_of_C)
    ranks_C = np.zeros(len(own_C), dtype=np.int64)
    for rows in _blocks(scores_BC):
        ranks_C += np.count_nonzero(scores_BC[rows] >= own_C, axis=0)
    return ranks_C  # the count includes the own image, so ranks start at 1


def chance_annotation(image_of_C: Indices, num_images: int) -> Recall:
    """What `image_annotation` is expected to return for random scores; see `_chance`."""
    _check_images(image_of_C, num_images)
    return _chance(np.bincount(image_of_C, minlength=num_images), candidates=len(image_of_C))


def chance_search(image_of_C: Indices, num_images: int) -> Recall:
    """What `image_search` is expected to return for random scores; see `_chance`."""
    _check_images(image_of_C, num_images)
    return _chance(np.ones(len(image_of_C), dtype=np.int64), candidates=num_images)


def _chance(true_Q: Indices, candidates: int) -> Recall:
    """Exact expected recalls of a random order, and the median rank over random queries.

    A query with n true items among N has none of them in the top r with the hypergeometric
    probability C(N-r, n) / C(N, n). If exactly half of the probability lies below a gap, the median
    is the middle of the gap, like numpy's: (N + 1) / 2 for one true item.
    """
    queries_with = Counter(true_Q.tolist())

    def found(first: int) -> Fraction:
        """Probability that the first `first` items contain a true one, averaged over queries."""
        rest = max(candidates - first, 0)
        missed = sum(
            (
                queries * Fraction(comb(rest, true), comb(candidates, true))
                for true, queries in queries_with.items()
            ),
            start=Fraction(0),
        )
        return 1 - missed / len(true_Q)

    ranks = range(1, candidates + 1)
    half = Fraction(1, 2)
    low = ranks[bisect_left(ranks, half, key=found)]
    high = ranks[bisect_right(ranks, half, key=found)]
    r1, r5, r10 = (100.0 * float(found(k)) for k in (1, 5, 10))
    return Recall(r1, r5, r10, (low + high) / 2)


def _own_scores(scores_BC: Scores, image_of_C: Indices) -> Scores:
    """(C,) score of each sentence with its own image, after checking the arguments."""
    images, sentences = scores_BC.shape
    if image_of_C.shape != (sentences,):
        raise ValueError(
            f"scores of {images} images and {sentences} sentences need the image of each sentence, "
            f"got image_of_C of shape {image_of_C.shape}"
        )
    _check_images(image_of_C, images)
    if np.isnan(scores_BC.min()):  # one pass without a copy; min() propagates NaN
        wrong = sum(np.count_nonzero(np.isnan(scores_BC[rows])) for rows in _blocks(scores_BC))
        raise ValueError(
            f"{wrong} of {scores_BC.size} scores are NaN, which cannot be ranked; "
            "has the training diverged?"
        )
    own_C: Scores = scores_BC[image_of_C, np.arange(sentences)]
    return own_C


def _check_images(image_of_C: Indices, num_images: int) -> None:
    if num_images < 1:
        raise ValueError("there are no images to rank")
    counts = np.bincount(image_of_C, minlength=num_images)
    if len(counts) > num_images:
        raise ValueError(f"image_of_C names image {image_of_C.max()}, there are {num_images}")
    if not counts.all():
        raise ValueError(f"image {counts.argmin()} has no sentence, so no true item to rank")


def _blocks(scores_BC: Scores) -> Iterator[slice]:
    """Row slices of about a million scores each."""
    images, sentences = scores_BC.shape
    step = max(1, _BLOCK_SCORES // sentences)
    for start in range(0, images, step):
        yield slice(start, start + step)
