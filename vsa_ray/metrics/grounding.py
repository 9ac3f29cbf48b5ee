"""Score regions chosen for phrases against the human-drawn boxes of those phrases.

A phrase may have several boxes; any of them counts as correct. Two measures: the region has an IoU
of at least 0.5 with one of them ("iou50"); or, more lenient, its centre lies in one of them
("pointing"). A phrase without an answer, because its image failed or the model knows none of its
words, counts as wrong.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vsa_ray import schema

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]

PhraseKey = tuple[str, int]
"""A sentence_id, and the position of the phrase in the sentence's row of PHRASES."""


@dataclass(frozen=True, slots=True)
class Grounding:
    """Percentage of phrases with a correct region, and baselines that need no model."""

    phrases: int
    answered: int
    """Phrases for which a region was chosen; the others count as wrong."""

    iou50: float
    pointing: float

    upper_bound_iou50: float
    """Any region of the image is correct, including the whole image."""

    upper_bound_pointing: float

    random_iou50: float
    """Exact expectation for a random detection; the whole image if there is no detection."""

    random_pointing: float

    most_confident_iou50: float
    """The detector's first box; the whole image if there is no detection."""

    most_confident_pointing: float

    whole_image_iou50: float
    whole_image_pointing: float


class _Picture(NamedTuple):
    boxes: Floats  # (R, 4)
    size: Floats  # (4,) width, height, width, height


class _Phrase(NamedTuple):
    key: PhraseKey
    boxes: Floats  # (N, 4)
    size: Floats  # (4,) of the picture the boxes were drawn on


def score_grounding(
    phrases: pa.Table, regions: pa.Table, chosen: Mapping[PhraseKey, int]
) -> Grounding:
    """Score the regions chosen for phrases.

    Args:
        phrases: a table of schema.PHRASES; all phrases count.
        regions: image_id, width, height and boxes of schema.REGIONS.
        chosen: index of the region chosen for each phrase that has an answer.

    Raises:
        ValueError: no phrases, a phrase without a box, or a choice that fits no phrase or region.
    """
    pictures = _pictures(regions)
    by_image = _phrases_by_image(phrases)
    keys = [phrase.key for of_image in by_image.values() for phrase in of_image]
    if not keys:
        raise ValueError("there are no phrases to score; does this corpus have phrase boxes?")
    if strange := chosen.keys() - keys:
        raise ValueError(f"{len(strange)} regions are chosen for unknown phrases: {min(strange)}")
    if absent := sum(image_id not in pictures for image_id in by_image):
        logger.warning(
            "%d of %d images have no regions; their phrases count as wrong", absent, len(by_image)
        )

    none = _Picture(np.empty((0, 4)), np.ones(4))
    correct_52P = np.concatenate(
        [
            _correct(pictures.get(image_id, none), of_image, chosen)
            for image_id, of_image in by_image.items()
        ],
        axis=2,
    )
    percent_52 = 100.0 * correct_52P.mean(axis=2)
    return Grounding(len(keys), len(chosen), *percent_52.flatten().tolist())


def choose_by_score(
    scores_TR: Floats, positions_T: Sequence[int], first: int, stop: int
) -> int | None:
    """The region of words[first:stop] if words are independent: the highest sum of v_i . s_t.

    Args:
        scores_TR: scores of the words that the model knows.
        positions_T: positions of those words in their sentence (Vocabulary.known).

    Returns:
        The region, or None if the model knows no word of the phrase.
    """
    known = [t for t, position in enumerate(positions_T) if first <= position < stop]
    return int(scores_TR[known].sum(axis=0).argmax()) if known else None


def choose_by_assignment(
    assignment_T: Sequence[int], positions_T: Sequence[int], first: int, stop: int
) -> int | None:
    """The region of words[first:stop] in a chain (snippets.viterbi): that of most of its words.

    A tie goes to the later word's region, since English noun phrases end with the noun. Arguments
    and result are as in `choose_by_score`.
    """
    regions = [
        int(region)
        for region, position in zip(assignment_T, positions_T, strict=True)
        if first <= position < stop
    ]
    return max(reversed(regions), key=regions.count) if regions else None


def iou(boxes_N4: Floats, boxes_M4: Floats) -> Floats:
    """(N, M) intersection over union of boxes; 0 for two empty boxes."""
    a_N14 = boxes_N4[:, None].astype(np.float64)
    b_M4 = boxes_M4.astype(np.float64)
    shared_NM2 = np.minimum(a_N14[..., 2:], b_M4[:, 2:]) - np.maximum(a_N14[..., :2], b_M4[:, :2])
    shared_NM: Floats = shared_NM2.clip(min=0).prod(axis=2)
    covered_NM = _area(a_N14) + _area(b_M4) - shared_NM
    return np.divide(shared_NM, covered_NM, out=np.zeros_like(shared_NM), where=covered_NM > 0)


def _area(boxes: Floats) -> Floats:
    area: Floats = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    return area


def _correct(
    picture: _Picture, phrases_P: Sequence[_Phrase], chosen: Mapping[PhraseKey, int]
) -> Floats:
    """(5, 2, P) correctness of each phrase, in the order of the fields of `Grounding`."""
    regions = len(picture.boxes)
    for phrase in phrases_P:
        if phrase.key in chosen and not 0 <= chosen[phrase.key] < regions:
            raise ValueError(
                f"region {chosen[phrase.key]} is chosen for {phrase.key}, "
                f"whose image has {regions} regions"
            )
    if not regions:
        return np.zeros((5, 2, len(phrases_P)))

    truth = [phrase.boxes * (picture.size / phrase.size) for phrase in phrases_P]
    right_2RP = _right(picture.boxes, truth)
    detections_2RP = right_2RP[:, 1:] if regions > 1 else right_2RP
    answered_P = np.array([phrase.key in chosen for phrase in phrases_P])
    chosen_P = np.array([chosen.get(phrase.key, 0) for phrase in phrases_P])
    own_2P = right_2RP[:, chosen_P, np.arange(len(truth))] & answered_P
    return np.stack(
        [
            own_2P,
            right_2RP.any(axis=1),
            detections_2RP.mean(axis=1),
            detections_2RP[:, 0],
            right_2RP[:, 0],
        ]
    )


def _right(regions_R4: Floats, truth: Sequence[Floats]) -> Bools:
    """(2, R, P) whether a region is correct for a phrase, by IoU and by pointing."""
    truth_N4 = np.concatenate(truth)
    starts_P = np.cumsum([0, *(len(boxes) for boxes in truth[:-1])])
    centres_R12 = (regions_R4[:, None, :2] + regions_R4[:, None, 2:]) / 2
    inside_RN2 = (centres_R12 >= truth_N4[:, :2]) & (centres_R12 < truth_N4[:, 2:])
    right_2RN = np.stack([iou(regions_R4, truth_N4) >= 0.5, inside_RN2.all(axis=2)])
    right_2RP: Bools = np.logical_or.reduceat(right_2RN, starts_P, axis=2)
    return right_2RP


def _pictures(regions: pa.Table) -> dict[str, _Picture]:
    """The images that have regions."""
    sizes_4 = [regions[name].to_numpy() for name in ("width", "height", "width", "height")]
    rows = zip(
        regions["image_id"].to_pylist(),
        schema.matrices(regions["boxes"], 4),
        np.stack(sizes_4, axis=1),
        strict=True,
    )
    return {
        image_id: _Picture(boxes_R4.astype(np.float64), size_4)
        for image_id, boxes_R4, size_4 in rows
        if len(boxes_R4)
    }


def _phrases_by_image(phrases: pa.Table) -> dict[str, list[_Phrase]]:
    by_image: dict[str, list[_Phrase]] = defaultdict(list)
    for row in phrases.to_pylist():
        size_4 = np.array([row["width"], row["height"]] * 2, dtype=np.float64)
        for position, phrase in enumerate(row["phrases"]):
            key = (row["sentence_id"], position)
            if not phrase["boxes"]:
                raise ValueError(f"phrase {key} has no box, so no region can be correct")
            by_image[row["image_id"]].append(_Phrase(key, np.array(phrase["boxes"]), size_4))
    return by_image
