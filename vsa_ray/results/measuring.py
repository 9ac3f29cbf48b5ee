"""Models and tables to the rows of the tables of docs/results.

Every choice that is left when the models are trained is made here, on dev.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vsa_ray import batches, evaluation, metrics, schema
from vsa_ray.captions import CaptionConfig
from vsa_ray.checkpoints import Aligner, Captioner
from vsa_ray.evaluation.phrases import PhraseScores
from vsa_ray.snippets import SnippetConfig

Scores = npt.NDArray[np.float32]

BETAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the chain, in deviations of v_i . s_t over the dev split: models differ in their scale."""

DETECTOR_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""In the same unit."""

WITH_DETECTOR = "alignment and the detector's confidence"
ALONE = "alignment alone"
TOGETHER = "sum of these"


@dataclass(frozen=True, slots=True)
class Split:
    """What people said of the images of one split."""

    regions: pa.Table
    sentences: pa.Table
    phrases: pa.Table


def retrieval_rows(
    seeds: Sequence[Mapping[str, Aligner]], split: Split, headline: str = TOGETHER
) -> list[dict[str, Any]]:
    """`retrieval` of metrics.json for each model of each seed, and of several together.

    Together is the sum of their scores, each divided by its deviation: of all models of a seed that
    has those of the first, and, in a row of the first seed, of the headline of all seeds.
    """
    rows: list[dict[str, Any]] = []
    headlines: list[Scores] = []
    for aligners in seeds:
        scores = {}
        for name, aligner in aligners.items():
            data = evaluation.pairs(split.regions, split.sentences, aligner.vocabulary)
            scores_BC = evaluation.retrieval_scores(aligner.model, data)
            scores[name] = scores_BC / scores_BC.std()
        if len(scores) == len(seeds[0]) > 1:
            scores[TOGETHER] = np.sum(list(scores.values()), axis=0)
        rows.append({name: evaluation.retrieval_by(own, data) for name, own in scores.items()})
        if headline in scores:
            headlines.append(scores[headline])
    if len(headlines) > 1:
        together_BC = np.sum(headlines, axis=0)
        rows[0][f"{headline}, of all seeds"] = evaluation.retrieval_by(together_BC, data)
    return rows


def best_on_dev(rows: Mapping[str, Any]) -> str:
    """The row with the best mean recall."""
    return max(rows, key=lambda name: _mean_recall(rows[name]))


def loss_rows(aligners: Mapping[str, Aligner], dev: Split) -> dict[str, dict[str, Any]]:
    """`retrieval` of metrics.json for each model."""
    return {
        name: evaluation.retrieval(
            aligner.model, evaluation.pairs(dev.regions, dev.sentences, aligner.vocabulary)
        )
        for name, aligner in aligners.items()
    }


def _mean_recall(row: Mapping[str, Any]) -> float:
    parts = (row["image_annotation"], row["image_search"])
    return float(np.mean([part[key] for part in parts for key in ("r1", "r5", "r10")]))


@dataclass(frozen=True, slots=True)
class Decoding:
    """How phrases find their boxes, as chosen on dev, in units of v_i . s_t."""

    model: str
    detector_weight: float
    beta: float
    unit: float
    """The deviation of v_i . s_t."""


def choose_decoding(aligners: Mapping[str, Aligner], dev: Split) -> Decoding:
    """The model, the detector's weight and then β with the best accuracy at IoU 0.5."""
    best, found = -1.0, None
    for name, aligner in aligners.items():
        scored = evaluation.phrase_scores(aligner, dev.regions, dev.phrases)
        unit = _deviation(scored)
        for weight in DETECTOR_WEIGHTS:
            accuracy = _iou50(scored, dev, detector_weight=weight * unit)
            if accuracy > best:
                best, found = accuracy, (name, scored, weight * unit, unit)
    assert found is not None, "there is a model"
    name, scored, weight, unit = found
    beta = max(BETAS, key=lambda b: _iou50(scored, dev, detector_weight=weight, beta=b * unit))
    return Decoding(name, weight, beta * unit, unit)


def _deviation(scored: Sequence[PhraseScores]) -> float:
    return float(np.concatenate([each.scores_TR.ravel() for each in scored]).std())


def _iou50(scored: Sequence[PhraseScores], split: Split, **settings: float) -> float:
    chosen = evaluation.choose(scored, **settings)
    return metrics.score_grounding(split.phrases, split.regions, chosen).iou50


def grounding_rows(
    aligner: Aligner, split: Split, proposals: pa.Table, decoding: Decoding
) -> dict[str, dict[str, Any]]:
    """`grounding` of metrics.json, with and without the detector's confidence, and baselines.

    Args:
        proposals: regions of the same images by selective search, which knows no confidence.
    """

    def part(regions: pa.Table, weight: float) -> dict[str, Any]:
        config = SnippetConfig(detector_weight=weight)
        return evaluation.grounding(aligner, regions, split.phrases, config)

    best = part(split.regions, decoding.detector_weight)
    searched = part(proposals, 0.0)
    return {
        WITH_DETECTOR: best,
        ALONE: part(split.regions, 0.0),
        **_baselines(best),
        "selective search: alignment alone": searched,
        **{f"selective search: {name}": row for name, row in _baselines(searched).items()},
    }


_BASELINES = {
    "random box": "random",
    "whole image": "whole_image",
    "most confident box": "most_confident",
    "any box (upper bound)": "upper_bound",
}


def _baselines(part: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What takes no model, as rows of its own."""
    return {
        name: {key: part[f"{prefix}_{key}"] for key in ("iou50", "pointing")}
        for name, prefix in _BASELINES.items()
    }


def chain_rows(aligner: Aligner, split: Split, decoding: Decoding) -> dict[str, dict[str, float]]:
    """Independent words, and the chain over a range of β."""
    scored = evaluation.phrase_scores(aligner, split.regions, split.phrases)
    rows = {}
    for beta in BETAS:
        chosen = evaluation.choose(
            scored, detector_weight=decoding.detector_weight, beta=beta * decoding.unit
        )
        found = metrics.score_grounding(split.phrases, split.regions, chosen)
        name = f"β = {beta:g} deviations" if beta else "independent words (β = 0)"
        rows[name] = {"iou50": found.iou50, "pointing": found.pointing}
    return rows


def caption_part(
    captioner: Captioner,
    split: Split,
    sentences: pa.Table,
    train: Iterable[pa.Table],
    config: CaptionConfig,
) -> dict[str, Any]:
    """`captions` of metrics.json.

    Args:
        sentences: of all splits.
        train: regions of the training images, for the nearest neighbour; may be empty.
    """
    good = split.regions.filter(pc.equal(split.regions["status"], "ok"))
    texts = _write(captioner, batches.whole_image_features(good), config)
    columns = zip(good["image_id"].to_pylist(), texts, strict=True)
    captions = pa.Table.from_pylist(
        [{"image_id": image_id, "caption": text} for image_id, text in columns],
        schema=schema.CAPTIONS,
    )
    return evaluation.captioning(captions, split.regions, sentences, train)


def box_rows(
    captioners: Mapping[str, Captioner],
    aligner: Aligner,
    people: pa.Table,
    phrases: pa.Table,
    snippets: pa.Table,
    config: CaptionConfig,
) -> dict[str, dict[str, Any]]:
    """What each model, and the nearest snippet, say of the boxes that people drew.

    And how well people agree, on the boxes of which several phrases were said.

    Args:
        people: regions of these boxes, made by regions.DescribeBoxes of region_references.
        phrases: of their images.
        snippets: of the train split.
    """
    _, said = evaluation.region_references(phrases)
    good = people.filter(pc.equal(people["status"], "ok"))
    of_image = dict(zip(good["image_id"].to_pylist(), batches.features(good).split(), strict=True))
    # The whole image comes first.
    boxes = [(image_id, number) for image_id, number in said if image_id in of_image]
    features_BF = np.stack([of_image[image_id][1 + number].numpy() for image_id, number in boxes])
    texts = {"nearest snippet": evaluation.nearest_snippets(aligner, features_BF, snippets)}
    texts |= {name: _write(own, features_BF, config) for name, own in captioners.items()}
    rows = {
        name: evaluation.region_captioning(dict(zip(boxes, own, strict=True)), said)
        for name, own in texts.items()
    }
    several = {box: own for box, own in said.items() if len(own) > 1}
    if several:
        one = {box: own[0] for box, own in several.items()}
        others = {box: own[1:] for box, own in several.items()}
        rows["people, one against the others"] = evaluation.region_captioning(one, others)
    return rows


def _write(
    captioner: Captioner, features_BF: npt.NDArray[np.generic], config: CaptionConfig
) -> list[str]:
    written = evaluation.write_captions(
        captioner.model,
        captioner.vocabulary,
        features_BF,
        beam_size=config.beam_size,
        max_words=config.max_words,
    )
    return [text for text, _ in written]
