"""Phrases that are to find their box among the regions of their image."""

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
    """first and stop of each phrase, in words of the sentence."""

    known_T: list[int]
    """Positions of the words that the model knows."""

    ids_T: npt.NDArray[np.int64]
    """Those words."""

    scores_TR: Floats
    """v_i . s_t"""

    confidence_R: Floats
    """Of the detector; 1 for the whole image."""

    labels: list[str]
    """R classes of the detector, "" for the whole image."""

    area_R: Floats
    """Share of the image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hints:
    """What the detector knows of a box, and how much each adds to v_i . s_t."""

    detector_weight: float = 0.0
    """Times the log of its confidence; see SnippetConfig."""

    area_weight: float = 0.0
    """Times the log of the box's share of the image: people speak of large things."""

    label_weight: float = 0.0
    """Times what its class says of the word; see alignment/labels.py."""

    labels: LabelWords | None = None
    """Needed where label_weight is not 0."""

    whole_image: float | None = None
    """What the whole image gains. Without (None) it is a candidate only where nothing was detected:
    few phrases say all of it, but to a model that tells these apart they are worth a candidate."""

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
    """Of all sentences whose image has regions."""
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
    """(R,) share of the image of each region.

    batches.detections gives the logs of the same shares. They differ: they are cut at a larger
    share (see snippets.LEAST), and rounded once, at the end. With them docs/results would change.
    """
    boxes_R4 = np.array(image["boxes"], np.float32)
    area_R: Floats = (boxes_R4[:, 2:] - boxes_R4[:, :2]).prod(axis=1)
    return area_R / np.float32(image["width"] * image["height"])


def choose(
    scored: Sequence[PhraseScores], hints: Hints = NO_HINTS, *, beta: float | None = None
) -> dict[PhraseKey, int]:
    """The region of each phrase that has a known word.

    Args:
        beta: of the chain MRF over the whole sentence, whose words then decide for their phrase by
            majority; at 0 each word takes its best region. Without a chain (None) a phrase takes
            the region with the best sum over its words.
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
    """Each phrase by the sum over its words, beside baselines: `grounding` of metrics.json."""
    scored = phrase_scores(aligner, regions, phrases)
    chosen = choose(scored, Hints(detector_weight=config.detector_weight))
    return asdict(metrics.score_grounding(phrases, regions, chosen))
