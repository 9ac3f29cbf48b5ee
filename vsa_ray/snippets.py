"""Assign runs of words to regions of the image: the paper's chain MRF (Eqs. 10-12).

    E(a) = sum_t v_{a_t} . s_t + beta * sum_t [a_t = a_{t+1}]

The paper says that E is minimised; with these signs it must be *maximised* for words to get the
regions that fit them and for `beta` to keep neighbours together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from vsa_ray import batches, checkpoints, schema
from vsa_ray.alignment import AlignmentModel
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner

Floats = npt.NDArray[np.float32]
States = npt.NDArray[np.int64]

LEAST = 1e-6
"""Smaller shares are raised to this value: 0 has no logarithm. Model inputs are clipped at the
larger batches.LEAST_SHARE, since an input should not be an outlier; here boxes are compared, and of
two very small shares the larger one should still win. docs/results were measured with both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnippetConfig:
    beta: float = 1.0
    """Bonus for two neighbouring words on the same region. 0 gives every word its best region; a
    large value puts the whole sentence on one. In units of v_i . s_t, so it depends on the model:
    half a standard deviation of v_i . s_t is a good start, which on Flickr8k is 0.025 with score
    "sentence_cosine" and 0.45 with score "sum"."""

    detector_weight: float = 0.0
    """Weight of the natural log of the detector's confidence, which is added to v_i . s_t (0 for
    the whole image, whose confidence is 1). Above 0, of two boxes that fit a word equally well the
    more confident one gets it."""

    min_words: int = 1
    """Minimum number of known words of a snippet. Shorter ones are dropped: the captioner is not
    trained on them, and the gallery does not show their regions."""

    def __post_init__(self) -> None:
        for name in ("beta", "detector_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"SnippetConfig.{name} must be finite and >= 0, got {getattr(self, name)}"
                )
        if self.min_words < 1:
            raise ValueError(f"SnippetConfig.min_words must be >= 1, got {self.min_words}")


@dataclass(frozen=True, slots=True)
class Run:
    """Positions [first, stop) of a chain, all in one state."""

    region: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Snippet:
    """words[first:stop] of a sentence, and the region they are assigned to."""

    region: int
    first: int
    stop: int
    score: float
    """Mean of v_i . s_t over the known words."""


def viterbi(scores: Sequence[Floats], beta: float) -> list[States]:
    """The exact best chain of each sentence, in O(words x regions).

    Args:
        scores: for each sentence a (T, M) array of v_i . s_t; T and M may differ.
        beta: >= 0.

    Returns:
        For each sentence the (T,) region of every word. Ties are resolved from the end: the last
        word takes the lowest region, and earlier words stay on the region of the word after them.
    """
    lengths = np.array([len(sentence) for sentence in scores], dtype=np.int64)
    if not len(scores) or not lengths.max():
        return [np.empty(0, dtype=np.int64) for _ in scores]
    most = max(sentence.shape[1] for sentence in scores)
    unary_CTM = np.full((len(scores), lengths.max(), most), -np.inf, dtype=np.float64)
    for row, sentence in zip(unary_CTM, scores, strict=True):
        row[: sentence.shape[0], : sentence.shape[1]] = sentence

    here_M = np.arange(most)
    came_from_CTM = np.empty(unary_CTM.shape, dtype=np.int64)
    best_CM = unary_CTM[:, 0]
    for t in range(1, unary_CTM.shape[1]):
        switch_C1 = best_CM.argmax(axis=1)[:, None]
        stay_CM = best_CM + beta
        move_C1 = np.take_along_axis(best_CM, switch_C1, axis=1)
        # Potts model: the best state to switch from does not depend on the next state.
        came_from_CTM[:, t] = np.where(stay_CM >= move_C1, here_M, switch_C1)
        reached_CM = np.maximum(stay_CM, move_C1) + unary_CTM[:, t]
        # A sentence that has ended keeps its totals, so that one pass serves all lengths.
        best_CM = np.where((t < lengths)[:, None], reached_CM, best_CM)
    return [
        _trace(best_CM[c], came_from_CTM[c, :length]) for c, length in enumerate(lengths.tolist())
    ]


def _trace(best_M: npt.NDArray[np.float64], came_from_TM: States) -> States:
    states = np.empty(len(came_from_TM), dtype=np.int64)
    state = int(best_M.argmax())
    for t in range(len(states) - 1, -1, -1):
        states[t] = state
        state = int(came_from_TM[t, state]) if t else state
    return states


def runs(states: States) -> Iterator[Run]:
    """Maximal runs of equal states, in word order."""
    starts = np.flatnonzero(np.diff(states, prepend=-1))
    stops = np.append(starts, len(states))[1:]
    for first, stop in zip(starts, stops, strict=True):
        yield Run(int(states[first]), int(first), int(stop))


@torch.inference_mode()
def word_scores(
    model: AlignmentModel, features_RF: torch.Tensor, sentences: Ragged
) -> list[Floats]:
    """v_i . s_t for one image and some sentences -> (T, R) for each sentence."""
    device = model.mean_F.device
    regions_RD = model.encode_regions(features_RF.to(device))
    words_WD = model.encode_words(sentences.rows.to(device), sentences.lengths.to(device))
    scores_WR = (words_WD @ regions_RD.T).float().cpu()
    return [scores_TR.numpy() for scores_TR in scores_WR.split(sentences.lengths.tolist())]


def weighted_log(share_R: Floats, weight: float) -> Floats:
    """The bonus to v_i . s_t from a number in [0, 1] per region, such as its confidence.

    See SnippetConfig.detector_weight, and evaluation.Hints.
    """
    return np.float32(weight) * np.log(np.maximum(share_R, np.float32(LEAST)))


def align(
    aligner: Aligner,
    config: SnippetConfig,
    features_RF: torch.Tensor,
    confidence_R: Floats,
    sentences: Sequence[Sequence[str]],
) -> list[list[Snippet]]:
    """Cut sentences of one image into snippets on regions that the model sees.

    A word unknown to the model joins the known words around it if they are on the same region, and
    is in no snippet otherwise.
    """
    if not sentences:
        return []
    seen = batches.seen_of(len(features_RF), aligner.model.config.regions)
    ids = [aligner.vocabulary.encode(words) for words in sentences]
    scores = word_scores(aligner.model, features_RF[seen], Ragged.of(ids))
    surer_R = weighted_log(confidence_R[seen], config.detector_weight)
    chains = viterbi([scores_TR + surer_R for scores_TR in scores], config.beta)
    found = []
    for words, scores_TR, states_T in zip(sentences, scores, chains, strict=True):
        positions = aligner.vocabulary.known(words)
        found.append(
            [
                Snippet(
                    region=seen.start + run.region,
                    first=positions[run.first],
                    stop=positions[run.stop - 1] + 1,
                    score=float(scores_TR[run.first : run.stop, run.region].mean()),
                )
                for run in runs(states_T)
                if run.stop - run.first >= config.min_words
            ]
        )
    return found


class ExtractSnippets:
    """Stage: images with their sentences (texts.attach) in, one `snippets` row per sentence out."""

    def __init__(self, config: SnippetConfig, checkpoint: str) -> None:
        self.config = config
        self.aligner = checkpoints.load_aligner(checkpoint, checkpoints.best_device())

    def __call__(self, images: pa.Table) -> pa.Table:
        columns = (images[name].to_pylist() for name in ("texts", "boxes", "scores"))
        detections = self.aligner.model.config.detections
        seen = batches.features(images, with_detections=detections)
        rows = []
        for features_RF, texts, boxes, confidence in zip(seen.split(), *columns, strict=True):
            confidence_R = np.array(confidence, np.float32)
            for found in align(self.aligner, self.config, features_RF, confidence_R, texts):
                rows.append([{**asdict(s), "box": boxes[s.region]} for s in found])
        return _as_table(images, rows)


def without_snippets(images: pa.Table) -> pa.Table:
    """The rows that ExtractSnippets would make, but without snippets."""
    texts = images["texts"].to_pylist()
    return _as_table(images, [[] for of_image in texts for _ in of_image])


def _as_table(images: pa.Table, snippets: Sequence[list[dict[str, Any]]]) -> pa.Table:
    """One row per sentence of each image, with its snippets."""
    names = ("image_id", "split", "text_ids", "texts")
    columns = (images[name].to_pylist() for name in names)
    sentences = [
        {"sentence_id": sentence_id, "image_id": image_id, "split": split, "words": words}
        for image_id, split, ids, texts in zip(*columns, strict=True)
        for sentence_id, words in zip(ids, texts, strict=True)
    ]
    rows = [
        {**sentence, "snippets": found} for sentence, found in zip(sentences, snippets, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schema.SNIPPETS)
