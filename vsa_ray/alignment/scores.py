"""Eq. 8: how well each image of a batch fits each sentence, by the best region of every word.

Plain autograd would store one number per region and word, and as many in the backward pass. Here
the product of regions and words is computed in tiles, each reduced while it is in cache. Only the
index of the winning region is kept for the backward pass, one byte per image and word. The backward
pass then reads one region per image and word, and none where the loss sends no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Score = Literal["sum", "sqrt_length", "cosine", "sentence_cosine"]

MAX_REGIONS = 127
"""Maximum number of regions of an image, since the index of the winner is stored as an int8."""

_TILE_ROWS = {"cpu": 2048, "cuda": 8192}
_TILE_WORDS = 2048
"""Regions and words multiplied at once: small matrix products are slow."""

_REDUCED = {"cpu": 2**18, "cuda": 2**24}
"""Products reduced at once: on a CPU they must stay in cache for four reads; a GPU wants few
calls."""

_BLOCK_IMAGES = 2**15 // MAX_REGIONS
_BLOCK_WORDS = 2048
"""Images and words whose gradients are listed at once, at about 60 bytes per pair."""

_STRIPE = 2**18
_STRIPE_COLUMNS = (64, 192)
"""Elements of a stripe of columns whose gradients are summed at once, and its least and greatest
width: small enough that its rows are still in cache when they are reused."""

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type of the same size, by bytes per element."""


def image_sentence_scores(
    regions_PD: Tensor,
    num_regions_B: Tensor,
    words_WD: Tensor,
    lengths_C: Tensor,
    *,
    score: Score = "sum",
) -> Tensor:
    """Score each image against each sentence -> scores_BC, float32 (float64 for float64 inputs).

    A word contributes its product with the region it fits best; the last one wins a tie. A sentence
    scores the sum over its words (Eq. 8); "sqrt_length" divides that by the square root of their
    number, "cosine" by their number; for "sentence_cosine" the model has already scaled the words.
    A sentence without words scores 0. Under autocast the products are in autocast's type and are
    summed in float32.

    Args:
        regions_PD: the regions of all images, concatenated.
        num_regions_B: int64, regions of each image.
        words_WD: the words of all sentences, concatenated.
        lengths_C: int64, words of each sentence.

    Raises:
        ValueError: the counts do not add up, or an image has no region or too many.
    """
    _check_counts("num_regions_B", num_regions_B, len(regions_PD))
    _check_counts("lengths_C", lengths_C, len(words_WD))
    few, many = (int(n) for n in num_regions_B.aminmax()) if len(num_regions_B) else (1, 1)
    if few < 1 or many > MAX_REGIONS:
        raise ValueError(
            f"an image needs 1 to {MAX_REGIONS} regions, got images with {few} and with {many}; "
            "leave out images whose status is not ok"
        )
    device = regions_PD.device.type
    dtype = torch.promote_types(regions_PD.dtype, words_WD.dtype)
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    scores_BC: Tensor = _Scores.apply(
        regions_PD.to(dtype), num_regions_B, words_WD.to(dtype), lengths_C
    )
    if score in ("sum", "sentence_cosine"):
        return scores_BC
    words_C = lengths_C.clamp(min=1).to(scores_BC.dtype)
    return scores_BC / (words_C.sqrt() if score == "sqrt_length" else words_C)


def _check_counts(name: str, counts: Tensor, rows: int) -> None:
    total = int(counts.sum())
    if total != rows:
        raise ValueError(f"{name} adds up to {total}, but there are {rows} rows")


class _Scores(torch.autograd.Function):
    """Eq. 8 for all pairs, differentiated through the winning regions."""

    @staticmethod
    def forward(
        ctx: Any, regions_PD: Tensor, num_regions_B: Tensor, words_WD: Tensor, lengths_C: Tensor
    ) -> Tensor:
        sentence_W = torch.arange(len(lengths_C), device=lengths_C.device)
        sentence_W = sentence_W.repeat_interleave(lengths_C)
        scores_BC = regions_PD.new_empty(
            (len(num_regions_B), len(lengths_C)),
            dtype=torch.promote_types(regions_PD.dtype, torch.float32),
        )
        # Evaluation has the most pairs, and needs no winners.
        kept = len(words_WD) if any(ctx.needs_input_grad) else 0
        winners_BW = regions_PD.new_empty((len(num_regions_B), kept), dtype=torch.int8)
        for image_b, tile_bRD in _tiles(regions_PD, num_regions_B):
            best_bW = words_WD.new_empty(len(image_b), len(words_WD))
            winner_bW = winners_BW.new_empty(len(image_b), kept)
            for words in _slices(len(words_WD), _TILE_WORDS):
                _best_regions(tile_bRD, words_WD[words], best_bW[:, words], winner_bW[:, words])
            scores_bC = scores_BC.new_zeros(len(image_b), len(lengths_C))
            scores_BC[image_b] = scores_bC.index_add_(1, sentence_W, best_bW.to(scores_bC.dtype))
            winners_BW[image_b] = winner_bW
        ctx.save_for_backward(regions_PD, num_regions_B, words_WD, sentence_W, winners_BW)
        return scores_BC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BC: Tensor) -> tuple[Tensor | None, ...]:
        regions_PD, num_regions_B, words_WD, sentence_W, winners_BW = ctx.saved_tensors
        grad_regions_PD, grad_words_WD = _Blocks(regions_PD), _Blocks(words_WD)
        for images, rows, words in _blocks(num_regions_B, len(words_WD)):
            grad_Cb = grad_BC[images].T.contiguous()
            used_Cb = grad_Cb != 0
            sentence_w = sentence_W[words]
            row_wb = _winning_rows(num_regions_B[images], winners_BW[images, words])
            # List the used pairs, word by word. On a CPU index_select is far faster than [used_U].
            used_U = used_Cb.index_select(0, sentence_w).flatten().nonzero().squeeze(1)
            weight_U = grad_Cb.index_select(0, sentence_w).flatten().index_select(0, used_U)
            row_U = row_wb.flatten().index_select(0, used_U)
            uses_w = used_Cb.sum(1).index_select(0, sentence_w)
            sums_wD = _sums(regions_PD[rows], row_U.long(), weight_U, uses_w)
            grad_words_WD.add(words.start, sums_wD)
            # The same, region by region.
            word_U = torch.repeat_interleave(uses_w, output_size=len(used_U))
            row_U, order_U = row_U.sort(stable=True)
            word_U, weight_U = (x_U.index_select(0, order_U) for x_U in (word_U, weight_U))
            uses_p = row_U.long().bincount(minlength=rows.stop - rows.start)
            sums_pD = _sums(words_WD[words], word_U, weight_U, uses_p)
            grad_regions_PD.add(rows.start, sums_pD)
        return grad_regions_PD.whole(), None, grad_words_WD.whole(), None


def _slices(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, start + step)


def _tiles(regions_PD: Tensor, num_regions_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles of images: their indices (b,), and their regions as (b, R, D).

    An image with fewer regions than others in its tile is padded with copies of its last one; if a
    copy wins, it stands for that region.
    """
    tiles = -(-len(regions_PD) // _TILE_ROWS[regions_PD.device.type])
    if not tiles:
        return
    few, many = num_regions_B.aminmax()
    if few == many:  # nothing to copy
        image_B = torch.arange(len(num_regions_B), device=num_regions_B.device)
        regions_BRD = regions_PD.unflatten(0, (len(image_B), -1))
        yield from zip(image_B.chunk(tiles), regions_BRD.chunk(tiles), strict=True)
        return
    first_B = num_regions_B.cumsum(0) - num_regions_B
    order_B = num_regions_B.argsort(stable=True)  # similar sizes together: little padding
    for image_b in order_B.chunk(tiles):
        last_b1 = num_regions_B[image_b, None] - 1
        region_R = torch.arange(int(last_b1.max()) + 1, device=last_b1.device)
        row_bR = first_B[image_b, None] + region_R.minimum(last_b1)
        yield image_b, regions_PD.index_select(0, row_bR.flatten()).view(*row_bR.shape, -1)


def _best_regions(
    regions_bRD: Tensor, words_wD: Tensor, best_bw: Tensor, winner_bw: Tensor
) -> None:
    """Write each word's product with the best region of each image, and, if wanted, its index."""
    images, num_regions, _ = regions_bRD.shape
    sims_bRw = (regions_bRD.flatten(0, 1) @ words_wD.T).view(images, num_regions, len(words_wD))
    # Floats are compared by their bits, as integers, which is up to four times faster; of 0 and -0
    # only the one that amax returns can win.
    integer = _INTEGERS[sims_bRw.element_size()]
    region_R1 = torch.arange(num_regions, device=words_wD.device, dtype=integer)[:, None]
    reduced = _REDUCED[words_wD.device.type] // (num_regions * len(words_wD))
    for some in _slices(images, max(1, reduced)):
        best_bw[some] = best = sims_bRw[some].amax(1)
        if winner_bw.numel():
            # max(1) returns the index too, but is several times slower. With NaN any may win.
            equal = sims_bRw[some].view(integer).eq_(best.view(integer)[:, None])
            winner_bw[some] = equal.mul_(region_R1).amax(1)


def _blocks(num_regions_B: Tensor, num_words: int) -> Iterator[tuple[slice, slice, slice]]:
    """Blocks of pairs small enough to list: images, the rows of their regions, and words."""
    stop = 0
    for images in _slices(len(num_regions_B), _BLOCK_IMAGES):
        rows = slice(stop, stop := stop + int(num_regions_B[images].sum()))
        for words in _slices(num_words, _BLOCK_WORDS):
            yield images, rows, words


def _winning_rows(num_b: Tensor, winner_bw: Tensor) -> Tensor:
    """The winning row (w, b), counted from the first region of the first of these images.

    int16 is large enough for the rows of a block, and sorts twice as fast as int32.
    """
    first_b = (num_b.cumsum(0) - num_b).to(torch.int16)
    return winner_bw.T.minimum((num_b - 1).to(torch.int8)) + first_b


def _sums(table: Tensor, row_U: Tensor, weight_U: Tensor, uses: Tensor) -> Tensor:
    """Weighted sums of rows of the table: one of the first `uses[0]` pairs, and so on.

    If the table is bfloat16, the weights and results are rounded to it; sums are in float32.
    """
    if table.dtype == torch.bfloat16:
        weight_U = weight_U.to(table.dtype)
    least, most = _STRIPE_COLUMNS
    columns = max(least, min(most, _STRIPE // len(table) // 32 * 32))
    first = uses.cumsum(0) - uses
    stripes = []
    for table_d in table.split(columns, 1):
        part = table_d.to(weight_U.dtype).contiguous()
        stripes.append(F.embedding_bag(row_U, part, first, mode="sum", per_sample_weights=weight_U))
    return torch.cat(stripes, 1)


class _Blocks:
    """Accumulates a gradient from blocks of rows, of which some arrive several times."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._blocks: dict[int, Tensor] = {}

    def add(self, start: int, block: Tensor) -> None:
        if start in self._blocks:
            wide = torch.promote_types(block.dtype, torch.float32)
            block = self._blocks[start].to(wide).add_(block)
        self._blocks[start] = block

    def whole(self) -> Tensor:
        blocks = list(self._blocks.values())
        if not blocks:
            return torch.zeros_like(self._like)
        return (blocks[0] if len(blocks) == 1 else torch.cat(blocks)).to(self._like.dtype)
