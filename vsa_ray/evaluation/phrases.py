"""Phrases that are to find their box among the detections of their image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vsa_ray import batches, metrics
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner
from vsa_ray.metrics.grounding import PhraseKey
from vsa_ray.snippets import Floats, SnippetConfig, States, trust, viterbi, word_scores


@dataclass(frozen=True, slots=True)
class PhraseScores:
    """A sentence with phrases, and how well each of its words fits each detection."""

    sentence_id: str

    spans: list[tuple[int, int]]
    """first and stop of each phrase, in words of the sentence."""

    known_T: list[int]
    """Positions of the words that the model knows."""

    scores_TR: Floats
    """v_i . s_t"""

    confidence_R: Floats
    """Of the detector."""

    first: int
    """The region that stands first here: 1, or 0 where nothing was detected."""


def phrase_scores(aligner: Aligner, regions: pa.Table, phrases: pa.Table) -> list[PhraseScores]:
    """Of all sentences whose image has regions.

    The whole image is a candidate only where nothing was detected: it is the right box for few
    phrases.
    """
    good = regions.filter(pc.equal(regions["status"], "ok"))
    features = dict(zip(good["image_id"].to_pylist(), batches.features(good).split(), strict=True))
    confidence = dict(zip(good["image_id"].to_pylist(), good["scores"].to_pylist(), strict=True))
    scored = []
    for image_id, rows in groupby(phrases.sort_by("image_id").to_pylist(), itemgetter("image_id")):
        if image_id not in features:
            continue
        sentences = list(rows)
        first = 1 if len(features[image_id]) > 1 else 0
        words = Ragged.of([aligner.vocabulary.encode(row["words"]) for row in sentences])
        scores = word_scores(aligner.model, features[image_id][first:], words)
        scored += [
            PhraseScores(
                sentence_id=row["sentence_id"],
                spans=[(phrase["first"], phrase["stop"]) for phrase in row["phrases"]],
                known_T=aligner.vocabulary.known(row["words"]),
                scores_TR=scores_TR,
                confidence_R=np.array(confidence[image_id][first:], np.float32),
                first=first,
            )
            for row, scores_TR in zip(sentences, scores, strict=True)
        ]
    return scored


def choose(
    scored: Sequence[PhraseScores], *, detector_weight: float = 0.0, beta: float | None = None
) -> dict[PhraseKey, int]:
    """The region of each phrase that has a known word.

    Args:
        detector_weight: see SnippetConfig.
        beta: of the chain MRF over the whole sentence, whose words then decide for their phrase by
            majority; at 0 each word takes its best region. Without a chain (None) a phrase takes
            the region with the best sum over its words.
    """
    unary = [each.scores_TR + trust(each.confidence_R, detector_weight) for each in scored]
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
                chosen[each.sentence_id, number] = each.first + at
    return chosen


def grounding(
    aligner: Aligner, regions: pa.Table, phrases: pa.Table, config: SnippetConfig
) -> dict[str, Any]:
    """Each phrase by the sum over its words, beside baselines: `grounding` of metrics.json."""
    scored = phrase_scores(aligner, regions, phrases)
    chosen = choose(scored, detector_weight=config.detector_weight)
    return asdict(metrics.score_grounding(phrases, regions, chosen))
