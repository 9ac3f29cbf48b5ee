"""Phrase grounding: the decoding is chosen on dev, the accuracy measured on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from vsa_ray import evaluation, metrics
from vsa_ray.alignment import LabelWords
from vsa_ray.checkpoints import Aligner
from vsa_ray.evaluation import Hints, PhraseScores
from vsa_ray.results.measuring import Split

WEIGHTS: dict[str, tuple[float | None, ...]] = {
    "detector_weight": (0.0, 0.1, 0.2, 0.5, 1.0, 2.0),
    "label_weight": (0.0, 0.1, 0.25, 0.5, 1.0),
    "area_weight": (0.0, 0.1, 0.2, 0.4),
    "whole_image": (None, -1.0, -0.7, -0.5, -0.3, 0.0),
}
"""Values to try for the weights of Hints, in standard deviations of v_i . s_t, since models differ
in scale. Coordinate search: one weight at a time in this order, in two rounds."""

BETAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Values of the chain's beta to compare, in the same unit."""

ALONE = "alignment alone"
WITH_CONFIDENCE = "alignment and the detector's confidence"
WITH_DETECTOR = "alignment and all that the detector knows"


@dataclass(frozen=True, slots=True)
class Decoding:
    """A choice of model and decoding weights, in units of v_i . s_t."""

    model: str
    detector_weight: float
    label_weight: float
    area_weight: float
    whole_image: float | None
    beta: float
    unit: float
    """The standard deviation of v_i . s_t."""

    def hints(self, labels: LabelWords) -> Hints:
        weights = {name: getattr(self, name) for name in WEIGHTS}
        return Hints(labels=labels, **weights)


def choose_decoding(aligners: Mapping[str, Aligner], labels: LabelWords, dev: Split) -> Decoding:
    """Choose the model and weights with the best mean of IoU and pointing accuracy on dev.

    The chain's beta is then chosen by IoU with the detector's confidence as the only hint, because
    that is how snippets are extracted.
    """
    found = {name: _decoding(name, aligner, labels, dev) for name, aligner in aligners.items()}
    return max(found.values(), key=lambda each: each[0])[1]


def _decoding(
    name: str, aligner: Aligner, labels: LabelWords, dev: Split
) -> tuple[float, Decoding]:
    """Accuracy without a chain, and the best decoding, for one model."""
    scored = evaluation.phrase_scores(aligner, dev.regions, dev.phrases)
    unit = float(np.concatenate([each.scores_TR.ravel() for each in scored]).std())
    hints, best = Hints(labels=labels), -1.0
    for weight, values in [*WEIGHTS.items()] * 2:
        changes: list[dict[str, Any]] = [
            {weight: None if value is None else value * unit} for value in values
        ]
        tried = [replace(hints, **change) for change in changes]
        accuracies = [_right(_measured(scored, dev, own)) for own in tried]
        best = max(accuracies)
        hints = tried[accuracies.index(best)]
    confidence = Hints(detector_weight=hints.detector_weight)
    chains = [_measured(scored, dev, confidence, beta * unit).iou50 for beta in BETAS]
    beta = BETAS[chains.index(max(chains))] * unit
    weights = {name: getattr(hints, name) for name in WEIGHTS}
    return best, Decoding(model=name, beta=beta, unit=unit, **weights)


def _measured(
    scored: Sequence[PhraseScores], split: Split, hints: Hints, beta: float | None = None
) -> metrics.Grounding:
    chosen = evaluation.choose(scored, hints, beta=beta)
    return metrics.score_grounding(split.phrases, split.regions, chosen)


def _right(found: metrics.Grounding) -> float:
    return (found.iou50 + found.pointing) / 2


def grounding_rows(
    aligner: Aligner, split: Split, proposals: pa.Table, labels: LabelWords, decoding: Decoding
) -> dict[str, dict[str, Any]]:
    """`grounding` of metrics.json with and without the detector's knowledge, and baselines.

    Args:
        proposals: regions of the same images by selective search, which only knows box sizes.
    """
    scored = evaluation.phrase_scores(aligner, split.regions, split.phrases)
    confidence = Hints(detector_weight=decoding.detector_weight)
    best = asdict(_measured(scored, split, decoding.hints(labels)))
    searching = replace(split, regions=proposals)
    found = evaluation.phrase_scores(aligner, proposals, split.phrases)
    searched = asdict(_measured(found, searching, Hints()))
    return {
        WITH_DETECTOR: best,
        WITH_CONFIDENCE: asdict(_measured(scored, split, confidence)),
        ALONE: asdict(_measured(scored, split, Hints())),
        **_baselines(best),
        f"selective search: {ALONE}": searched,
        **{f"selective search: {name}": row for name, row in _baselines(searched).items()},
    }


_BASELINES = {
    "random box": "random",
    "whole image": "whole_image",
    "most confident box": "most_confident",
    "any box (upper bound)": "upper_bound",
}


def _baselines(part: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The baselines that need no model, as separate rows."""
    return {
        name: {key: part[f"{prefix}_{key}"] for key in ("iou50", "pointing")}
        for name, prefix in _BASELINES.items()
    }


def chain_rows(
    aligner: Aligner, split: Split, labels: LabelWords, decoding: Decoding
) -> dict[str, dict[str, float]]:
    """Independent words and the chain over a range of beta, without and with the detector."""
    scored = evaluation.phrase_scores(aligner, split.regions, split.phrases)
    rows = {}
    for title, hints in ((ALONE, Hints()), (WITH_DETECTOR, decoding.hints(labels))):
        for beta in BETAS:
            found = _measured(scored, split, hints, beta * decoding.unit)
            chain = f"β = {beta:g} deviations" if beta else "independent words (β = 0)"
            rows[f"{title}, {chain}"] = {"iou50": found.iou50, "pointing": found.pointing}
    return rows
