"""Phrase grounding: choose a region of the image for each phrase of its sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vsa_ray import batches, metrics
from vsa_ray.alignment import LabelWords
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner
from vsa_ray.metrics.grounding import PhraseKey
from vsa_ray.snippets import Floats, SnippetConfig, States, viterbi, weighted_log, word_scores


@dataclass(frozen=True, slots=True)
class PhraseScores:
    """A sentence with phrases, and how well each of its words fits each region."""

    sentence_id: str

    spans: list[tuple[int, int]]
    """First and stop position of each phrase in the sentence's words."""

    known_T: list[int]
    """Positions of the words that the model knows."""

    ids_T: npt.NDArray[np.int64]
    """Ids of those words."""

    scores_TR: Floats
    """v_i . s_t"""

    confidence_R: Floats
    """The detector's confidence; 1 for the whole image."""

    labels: list[str]
    """The R detected classes, "" for the whole image."""

    area_R: Floats
    """Share of the image's area."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hints:
    """Weights of what the detector knows about a box, added to v_i . s_t."""

    detector_weight: float = 0.0
    """Weight of the log of its confidence; see SnippetConfig."""

    area_weight: float = 0.0
    """Weight of the log of the box's share of the image: people mention large things."""

    label_weight: float = 0.0
    """Weight of the evidence of its class for the word; see alignment/labels.py."""

    labels: LabelWords | None = None
    """Needed if label_weight is not 0."""

    whole_image: float | None = None
    """Bonus of the whole image. If None, it is a candidate only where nothing was detected: few
    phrases describe the whole image, but a model that recognises them gains from the candidate."""

    def unary(self, each: PhraseScores) -> Floats:
        """(T, R)"""
        unary_TR = each.scores_TR + weighted_log(each.confidence_R, self.detector_weight)
        unary_TR = unary_TR + weighted_log(each.area_R, self.area_weight)
        if self.labels is not None and self.label_weight:
            evidence_TR = self.labels.evidence(each.ids_T, each.labels)
            unary_TR = unary_TR + np.float32(self.label_weight) * evidence_TR
        if unary_TR.shape[1] > 1:
            unary_TR[:, 0] += -np.inf if self.whole_image is None else self.whole_image
        return unary_TR


NO_HINTS = Hints()


def phrase_scores(aligner: Aligner, regions: pa.Table, phrases: pa.Table) -> list[PhraseScores]:
    """The scores of all sentences whose image has regions."""
    good = regions.filter(pc.equal(regions["status"], "ok"))
    image_ids = good["image_id"].to_pylist()
    seen = batches.features(good, with_detections=aligner.model.config.detections)
    features = dict(zip(image_ids, seen.split(), strict=True))
    names = ("boxes", "scores", "labels", "width", "height")
    known = dict(zip(image_ids, good.select(names).to_pylist(), strict=True))
    scored = []
    for image_id, rows in groupby(phrases.sort_by("image_id").to_pylist(), itemgetter("image_id")):
        if image_id not in features:
            continue
        sentences, image = list(rows), known[image_id]
        ids = [aligner.vocabulary.encode(row["words"]) for row in sentences]
        scores = word_scores(aligner.model, features[image_id], Ragged.of(ids))
        scored += [
            PhraseScores(
                sentence_id=row["sentence_id"],
                spans=[(phrase["first"], phrase["stop"]) for phrase in row["phrases"]],
                known_T=aligner.vocabulary.known(row["words"]),
                ids_T=ids_T,
                scores_TR=scores_TR,
                confidence_R=np.array(image["scores"], np.float32),
                labels=image["labels"],
                area_R=_areas(image),
            )
            for row, ids_T, scores_TR in zip(sentences, ids, scores, strict=True)
        ]
    return scored


def _areas(image: dict[str, Any]) -> Floats:
    """(R,) each region's share of the image's area.

    batches.detections has the logs of the same shares, but clipped at a larger value (see
    snippets.LEAST) and rounded only once, at the end. Using it would change docs/results.
    """
    boxes_R4 = np.array(image["boxes"], np.float32)
    area_R: Floats = (boxes_R4[:, 2:] - boxes_R4[:, :2]).prod(axis=1)
    return area_R / np.float32(image["width"] * image["height"])


def choose(
    scored: Sequence[PhraseScores], hints: Hints = NO_HINTS, *, beta: float | None = None
) -> dict[PhraseKey, int]:
    """Choose a region for each phrase with a known word.

    Args:
        beta: beta of a chain MRF over the whole sentence; each phrase then takes the region of the
            majority of its words, which at 0 take their best regions. Without a chain (None), a
            phrase takes the region with the highest sum over its words.
    """
    unary = [hints.unary(each) for each in scored]
    chains: Sequence[States | None] = [None] * len(unary)
    if beta is not None:
        chains = viterbi(unary, beta)
    chosen: dict[PhraseKey, int] = {}
    for each, scores_TR, states_T in zip(scored, unary, chains, strict=True):
        for number, span in enumerate(each.spans):
            if states_T is None:
                at = metrics.choose_by_score(scores_TR, each.known_T, *span)
            else:
                at = metrics.choose_by_assignment(states_T.tolist(), each.known_T, *span)
            if at is not None:
                chosen[each.sentence_id, number] = at
    return chosen


def grounding(
    aligner: Aligner, regions: pa.Table, phrases: pa.Table, config: SnippetConfig
) -> dict[str, Any]:
    """Grounding by the sum over each phrase's words, and baselines: `grounding` of metrics.json."""
    scored = phrase_scores(aligner, regions, phrases)
    chosen = choose(scored, Hints(detector_weight=config.detector_weight))
    return asdict(metrics.score_grounding(phrases, regions, chosen))
