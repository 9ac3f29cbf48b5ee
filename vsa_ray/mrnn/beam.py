"""Decode captions with a `MultimodalRNN`: beam search over many images at once.

Algorithm, for each image: at every step, keep the `beam_size` most probable extensions of the live
sentences by one word or END. Those with END leave the beam, and the best of them is remembered; the
others stay live. An image is done when no live sentence is more probable than its best finished
one, since log-probabilities can only fall. Scores are sums of log-probabilities, not divided by
length. Ties are broken by the parent's rank and then by word id, so captions do not depend on a
library's sorting. A beam of 1 is greedy search.

Implementation: nearly all the arithmetic is one (B K, H) x (H, V) product per step, and the rest
reads its result as few times as possible. What a word adds to the next state is looked up in a
precomputed table. Log-probabilities of all words are never materialised: the vocabulary is split
into groups, and the best extensions lie in the groups with the highest maxima, so only K groups per
image are examined. Images that are done leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vsa_ray.mrnn.model import MultimodalRNN, State
from vsa_ray.vocabulary import END

_GROUP = 64
"""Words per group: near the square root of usual vocabulary sizes, and a multiple of the vector
width."""

_MIN_ROWS = 4
"""Minimum rows of a product. CPU libraries use other routines for fewer, which round differently;
from this size on (in MKL) an image gets the same bits alone as in any batch."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A generated sentence."""

    ids: list[int]
    """Word ids, without START and END."""

    log_prob: float
    """Natural log of the sentence's probability, including END unless `max_words` cut it short."""


@torch.inference_mode()
def beam_search(
    model: MultimodalRNN,
    features_BF: Tensor,
    *,
    beam_size: int = 7,
    max_words: int = 20,
    min_words: int = 1,
) -> list[Caption]:
    """The most probable sentence found for each feature, in order.

    Needs 8 K V bytes of memory per feature: 142 MB for a thousand at K = 7 and V = 2,538.

    Args:
        max_words: sentences are cut off at this length, without END.
        min_words: END is not allowed before this many words. 1 only rules out the empty sentence,
            which is useless however probable. Probabilities are not rescaled for it.

    Raises:
        ValueError: a setting is out of range, or the model is in training mode.
    """
    if beam_size < 1:
        raise ValueError(f"beam_size must be >= 1, got {beam_size}")
    if not 1 <= min_words <= max_words:
        raise ValueError(
            f"the limits must be 1 <= min_words <= max_words, got {min_words} and {max_words}"
        )
    if model.training:
        raise ValueError("the model is in training mode, where dropout is on; call model.eval()")
    if len(features_BF) == 0:
        return []
    search = _Search(model, features_BF, beam_size=beam_size, max_words=max_words)
    for position in range(max_words):
        may_end = position >= min_words
        is_last = position == max_words - 1
        if not search.advance(position, may_end=may_end, is_last=is_last):
            break
    return search.captions()


class _Search:
    """Live sentences of A images, K each, best first; those that have ended score -inf.

    N = A K rows go through the model at each step. Q is the number of groups, and V here is a
    multiple of `_GROUP`: the vocabulary is padded with words of probability 0.
    """

    def __init__(
        self, model: MultimodalRNN, features_BF: Tensor, *, beam_size: int, max_words: int
    ) -> None:
        num_images = len(features_BF)
        self.model = model
        self.beam_size = beam_size
        self._lay_out_weights(num_rows=max(_MIN_ROWS, num_images * beam_size))
        start_1G = self.table_VG[END : END + 1]  # as an input, its id means START
        self.inputs_NG = start_1G + model.image_inputs(_filled(features_BF))[:num_images]
        self.state: State | None = None
        self.scores_AK = start_1G.new_zeros(num_images, 1)
        self.images_A = torch.arange(num_images, device=start_1G.device)
        self.words_AKT = self.images_A.new_full((num_images, 1, max_words), END)
        self.best_B = start_1G.new_full((num_images,), -torch.inf)
        self.best_words_BT = self.words_AKT[:, 0].clone()

    def _lay_out_weights(self, *, num_rows: int) -> None:
        weight_VH, bias_V = self.model.output.weight, self.model.output.bias
        num_words = len(bias_V)
        fill = -num_words % _GROUP
        table_VG = self.model.word_inputs(torch.arange(num_words, device=bias_V.device))
        self.table_VG = F.pad(table_VG, (0, 0, 0, fill))
        self.weight_HV = F.pad(weight_VH.t(), (0, fill))
        self.bias_V = F.pad(bias_V, (0, fill), value=-torch.inf)
        # Reused at every step: fresh memory of this size would cost a page fault every 4 KiB.
        self.logits_NV = bias_V.new_empty(num_rows, num_words + fill)
        self.scratch_NV = torch.empty_like(self.logits_NV)

    def advance(self, position: int, *, may_end: bool, is_last: bool) -> bool:
        """Extend every live sentence by one word; False if none is left."""
        num_images, width = self.scores_AK.shape
        logits_NV, state = self._next_words()
        scores_AK, parents_AK, ids_AK = self._extensions(logits_NV, may_end=may_end)
        rows_AK = parents_AK + width * torch.arange(num_images, device=ids_AK.device)[:, None]
        self.words_AKT = self.words_AKT.flatten(0, 1)[rows_AK]
        self.words_AKT[:, :, position] = ids_AK
        ended_AK = (ids_AK == END) | is_last
        self._remember(scores_AK.masked_fill(~ended_AK, -torch.inf))
        scores_AK = scores_AK.masked_fill(ended_AK, -torch.inf)
        live_A = (scores_AK.amax(dim=1) > self.best_B[self.images_A]).nonzero().squeeze(1)
        self.state = tuple(part_NH[rows_AK[live_A].flatten()] for part_NH in state)
        self.inputs_NG = self.table_VG[ids_AK[live_A].flatten()]
        self.scores_AK = scores_AK[live_A]
        self.words_AKT = self.words_AKT[live_A]
        self.images_A = self.images_A[live_A]
        return len(live_A) > 0

    def _next_words(self) -> tuple[Tensor, State]:
        """Logits of the next word of each sentence, in memory that the next call overwrites."""
        num_rows = len(self.inputs_NG)
        state = None if self.state is None else tuple(_filled(part_NH) for part_NH in self.state)
        state = self.model.step(_filled(self.inputs_NG), state)
        logits_NV = self.logits_NV[: len(state[0])]
        torch.addmm(self.bias_V, state[0], self.weight_HV, out=logits_NV)
        return logits_NV[:num_rows], state

    def _extensions(self, logits_NV: Tensor, *, may_end: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The K best extensions of each image -> scores_AK, ranks of their parents, new word ids.

        The score of an extension is the word's logit plus an offset of its sentence: the score so
        far minus log-sum-exp.
        """
        num_images = len(self.scores_AK)
        tops_NQ = logits_NV.unflatten(1, (-1, _GROUP)).amax(dim=2)
        num_groups = tops_NQ.shape[1]
        offsets_N1 = self.scores_AK.view(-1, 1) - self._log_sum_exp(logits_NV, tops_NQ)
        if not may_end:
            logits_NV[:, END] = -torch.inf
            tops_NQ[:, 0] = logits_NV[:, :_GROUP].amax(dim=1)
        tops_AQ = (tops_NQ + offsets_N1).view(num_images, -1)  # the groups of all its sentences
        # Restore the order (parent, word), which breaks ties.
        groups_AK = _best(tops_AQ, self.beam_size).sort(dim=1).values
        images_A1 = torch.arange(num_images, device=groups_AK.device)[:, None]
        flat_AK = groups_AK + images_A1 * tops_AQ.shape[1]
        words_AKV = logits_NV.view(-1, _GROUP)[flat_AK] + offsets_N1[flat_AK // num_groups]
        scores_AV = words_AKV.flatten(1)
        best_AK = _best(scores_AV, self.beam_size)
        groups_AK = groups_AK.gather(1, best_AK // _GROUP)
        ids_AK = groups_AK % num_groups * _GROUP + best_AK % _GROUP
        return scores_AV.gather(1, best_AK), groups_AK // num_groups, ids_AK

    def _log_sum_exp(self, logits_NV: Tensor, tops_NQ: Tensor) -> Tensor:
        top_N1 = tops_NQ.amax(dim=1, keepdim=True)
        scratch_NV = torch.sub(logits_NV, top_N1, out=self.scratch_NV[: len(logits_NV)])
        return scratch_NV.exp_().sum(dim=1, keepdim=True).log_().add_(top_N1)

    def _remember(self, ended_AK: Tensor) -> None:
        """Keep the best of the newly ended sentences if it beats those that ended before."""
        score_A, rank_A = ended_AK.max(dim=1)
        better_A = (score_A > self.best_B[self.images_A]).nonzero().squeeze(1)
        images_A = self.images_A[better_A]
        self.best_B[images_A] = score_A[better_A]
        self.best_words_BT[images_A] = self.words_AKT[better_A, rank_A[better_A]]

    def captions(self) -> list[Caption]:
        return [
            Caption(ids[: ids.index(END)] if END in ids else ids, log_prob)
            for ids, log_prob in zip(self.best_words_BT.tolist(), self.best_B.tolist(), strict=True)
        ]


def _filled(rows: Tensor) -> Tensor:
    """Pad with rows of zeros to at least `_MIN_ROWS` rows."""
    return rows if len(rows) >= _MIN_ROWS else F.pad(rows, (0, 0, 0, _MIN_ROWS - len(rows)))


def _best(scores_AN: Tensor, k: int) -> Tensor:
    """Positions of the k highest scores of each row; ties go to the lower position.

    `topk` does not specify which of equal values it returns, so all keys must differ: the upper
    half of a key is the float's bits as an integer with the same order, the lower half the
    position.
    """
    bits_AN = scores_AN.float().view(torch.int32)
    sortable_AN = bits_AN ^ ((bits_AN >> 31) & 0x7FFFFFFF)
    positions_N = torch.arange(scores_AN.shape[1], device=scores_AN.device)
    keys_AN = (sortable_AN.long() << 32) - positions_N
    return keys_AN.topk(min(k, len(positions_N)), dim=1).indices
