"""Dropout with masks that are cheap to draw on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BITS = 16


class Dropout(nn.Dropout):
    """`nn.Dropout` that, on a CPU, draws 16 random bits per element instead of a random float.

    PyTorch draws masks on a CPU one element at a time, which takes two thirds as long as the
    product that follows. The dropout probability is `p` rounded to a multiple of 1 / 65,536.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        return x * _mask(x, self.p)


def _mask(like: Tensor, p: float) -> Tensor:
    """0 for dropped elements, and elsewhere the factor that preserves the mean."""
    dropped = min(round(p * 2**_BITS), 2**_BITS - 1)
    draws = torch.empty(-(-like.numel() * _BITS // 64), dtype=torch.int64)
    bits = draws.random_(-(2**63), None).view(torch.int16)[: like.numel()].view(like.shape)
    kept = bits >= dropped - 2 ** (_BITS - 1)
    mask: Tensor = kept.to(like.dtype).mul_(2**_BITS / (2**_BITS - dropped))
    return mask
