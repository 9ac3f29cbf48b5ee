"""Eqs. 4-5: the recurrent network that reads each sentence in both directions.

Both directions and all sentences advance together, without padding: words are ordered by time step,
and within a step by sentence, longest first. Plain autograd would sum the weight gradient over one
small product per step; here it is a single product over all words.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def bidirectional(e_WH: Tensor, lengths_C: Tensor, weight_2HH: Tensor, bias_2H: Tensor) -> Tensor:
    """The sum of the states of both directions, left to right and right to left -> (W, H).

    One product per time step, h W with row vectors h; under autocast in autocast's type.

    Args:
        e_WH: the words of all sentences, concatenated.
        lengths_C: int64, words of each sentence.
        weight_2HH: recurrent weights of the forward and of the backward direction.
        bias_2H: likewise.
    """
    device = e_WH.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        e_WH, weight_2HH, bias_2H = (x.to(dtype) for x in (e_WH, weight_2HH, bias_2H))
    h_WH: Tensor = _Bidirectional.apply(e_WH, *_time_order(lengths_C), weight_2HH, bias_2H)
    return h_WH


class _Bidirectional(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        e_WH: Tensor,
        position_2W: Tensor,
        sizes: list[int],
        weight_2HH: Tensor,
        bias_2H: Tensor,
    ) -> Tensor:
        h_2WH = e_WH[position_2W] + bias_2H[:, None]
        steps = h_2WH.split(sizes, dim=1)
        steps[0].relu_()
        for before_2CH, step_2CH in pairwise(steps):
            before_2CH = before_2CH[:, : step_2CH.shape[1]]
            step_2CH.baddbmm_(before_2CH, weight_2HH).relu_()
        ctx.save_for_backward(position_2W, weight_2HH, h_2WH)
        ctx.sizes = sizes
        return _in_order(h_2WH, position_2W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_WH: Tensor) -> tuple[Tensor | None, ...]:
        position_2W, weight_2HH, h_2WH = ctx.saved_tensors
        sizes: list[int] = ctx.sizes
        grad_2WH = grad_WH[position_2W]
        steps, open_ = grad_2WH.split(sizes, dim=1), (h_2WH > 0).split(sizes, dim=1)
        back_2HH = weight_2HH.transpose(1, 2)
        for step in reversed(range(len(sizes))):
            steps[step].mul_(open_[step])
            if step:
                steps[step - 1][:, : sizes[step]].baddbmm_(steps[step], back_2HH)
        # A word's predecessor lies as many rows back as the previous step has sentences.
        later = slice(sizes[0], None)
        sizes_T = torch.tensor(sizes, device=h_2WH.device)
        back_W = sizes_T[:-1].repeat_interleave(sizes_T[1:])
        before_W = torch.arange(sizes[0], h_2WH.shape[1], device=h_2WH.device) - back_W
        grad_weight_2HH = h_2WH.index_select(1, before_W).transpose(1, 2) @ grad_2WH[:, later]
        return _in_order(grad_2WH, position_2W), None, None, grad_weight_2HH, grad_2WH.sum(1)


def _in_order(x_2WH: Tensor, position_2W: Tensor) -> Tensor:
    """The sum of both directions, with words in their original order."""
    forward_W, backward_W = position_2W.argsort(dim=1)
    return x_2WH[0].index_select(0, forward_W) + x_2WH[1].index_select(0, backward_W)


def _time_order(lengths_C: Tensor) -> tuple[Tensor, list[int]]:
    """Positions of the words by time step, (2, W) for both directions, and the size of each step.

    Longest sentences come first, so the sentences that continue are the first ones of the step
    before.
    """
    order_C = lengths_C.argsort(descending=True, stable=True)
    longest = max([1, *lengths_C.tolist()])
    time_T1 = torch.arange(longest, device=lengths_C.device)[:, None]
    running_TC = time_T1 < lengths_C[order_C]
    time_W, rank_W = running_TC.nonzero(as_tuple=True)
    end_C = lengths_C.cumsum(0)
    forward_W = (end_C - lengths_C)[order_C][rank_W] + time_W
    backward_W = end_C[order_C][rank_W] - 1 - time_W
    return torch.stack([forward_W, backward_W]), running_TC.sum(1).tolist()
