"""Rows of the docs/results tables, except for grounding's, from models and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vsa_ray import batches, evaluation, mrnn, schema
from vsa_ray.captions import CaptionConfig
from vsa_ray.checkpoints import Aligner, Captioner
from vsa_ray.errors import UserError
from vsa_ray.evaluation.boxes import BoxKey

Scores = npt.NDArray[np.float32]

TOGETHER = "sum of these"


@dataclass(frozen=True, slots=True)
class Split:
    """Regions of the images of one split, with their human sentences and phrase boxes."""

    regions: pa.Table
    sentences: pa.Table
    phrases: pa.Table


def retrieval_rows(
    seeds: Sequence[Mapping[str, Aligner]], split: Split, headline: str = TOGETHER
) -> list[dict[str, Any]]:
    """`retrieval` of metrics.json for each model of each seed, and for ensembles.

    An ensemble sums the scores of its models, each divided by its standard deviation. There is one
    per seed, over all its models, where the seed has all models of the first one; and, as a row of
    the first seed, one over the headline scores of all seeds.
    """
    rows: list[dict[str, Any]] = []
    headlines: list[Scores] = []
    for aligners in seeds:
        scores = {}
        for name, aligner in aligners.items():
            data = evaluation.pairs(split.regions, split.sentences, aligner)
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
            aligner.model, evaluation.pairs(dev.regions, dev.sentences, aligner)
        )
        for name, aligner in aligners.items()
    }


def _mean_recall(row: Mapping[str, Any]) -> float:
    parts = (row["image_annotation"], row["image_search"])
    return float(np.mean([part[key] for part in parts for key in ("r1", "r5", "r10")]))


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
        train: regions of the training images, for the nearest-neighbour baseline; may be empty.
    """
    good = split.regions.filter(pc.equal(split.regions["status"], "ok"))
    texts = _write(captioner, batches.whole_image_features(good), config)
    columns = zip(good["image_id"].to_pylist(), texts, strict=True)
    captions = pa.Table.from_pylist(
        [{"image_id": image_id, "caption": text} for image_id, text in columns],
        schema=schema.CAPTIONS,
    )
    measured = evaluation.captioning(captions, split.regions, sentences, train)
    if measured is None:
        raise UserError("no image of the split has both features and sentences to caption")
    return measured


def box_rows(
    captioners: Mapping[str, Captioner],
    aligner: Aligner,
    people: pa.Table,
    phrases: pa.Table,
    snippets: pa.Table,
    config: CaptionConfig,
) -> dict[str, dict[str, Any]]:
    """Scores of each model's captions for human-drawn boxes, with two comparisons.

    Each model decodes with `config`'s beam and greedily: a beam prefers short texts, which score
    well on precision and badly on recall. For comparison: the nearest snippet, and the agreement
    of people, on the boxes that several phrases describe.

    Args:
        people: regions of these boxes, made by regions.DescribeBoxes from region_references.
        phrases: those of their images.
        snippets: those of the train split.
    """
    _, said = evaluation.region_references(phrases)
    good = people.filter(pc.equal(people["status"], "ok"))
    there = set(good["image_id"].to_pylist())
    boxes = [box for box in said if box[0] in there]
    features_BF = _of_boxes(boxes, good)
    seen_BF = _of_boxes(boxes, good, with_detections=aligner.model.config.detections)
    texts = {"nearest snippet": evaluation.nearest_snippets(aligner, seen_BF, snippets)}
    greedy = replace(config, beam_size=1)
    for name, captioner in captioners.items():
        texts[name] = _write(captioner, features_BF, config)
        texts[f"{name}, beam 1"] = _write(captioner, features_BF, greedy)
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


def _of_boxes(
    boxes: Sequence[BoxKey], regions: pa.Table, *, with_detections: bool = False
) -> npt.NDArray[np.float16]:
    """(B, F) features of the boxes of region_references; region 0 in `regions` is the image."""
    features = batches.features(regions, with_detections=with_detections)
    of_image = dict(zip(regions["image_id"].to_pylist(), features.split(), strict=True))
    return np.stack([of_image[image_id][1 + number].numpy() for image_id, number in boxes])


def _write(
    captioner: Captioner, features_BF: npt.NDArray[np.generic], config: CaptionConfig
) -> list[str]:
    written = mrnn.write_captions(
        captioner.model,
        captioner.vocabulary,
        features_BF,
        beam_size=config.beam_size,
        max_words=config.max_words,
    )
    return [text for text, _ in written]
