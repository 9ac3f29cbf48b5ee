"""What the workers of a training run tell one another, with gradients.

A worker scores its own images against the words of every worker, so the ranking loss sees every
negative of the global batch; see alignment/losses.py for what is left to exchange.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from vsa_ray.batches import Ragged


def num_workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def gather(value: Tensor) -> Tensor:
    """The tensor of every worker, stacked -> (N, ...); all of one shape. Differentiable.

    The gradient of a worker's tensor is the sum of what all workers' losses say about it.
    """
    if num_workers() == 1:
        return value[None]
    gathered: Tensor = _Gather.apply(value)
    return gathered


def gather_rows(own: Ragged) -> tuple[Ragged, int]:
    """The rows of every worker, end to end in order of rank, and at which thing this worker's own
    begin. Differentiable."""
    if num_workers() == 1:
        return own, 0
    sizes = torch.tensor([len(own.rows), len(own.lengths)], device=own.rows.device)
    rows_N, lengths_N = zip(*gather(sizes).tolist(), strict=True)
    rows: Tensor = _GatherRows.apply(own.rows, list(rows_N))
    lengths: Tensor = _GatherRows.apply(own.lengths, list(lengths_N))
    return Ragged(rows, lengths), sum(lengths_N[: rank()])


class _Gather(torch.autograd.Function):
    # torch.distributed.nn has a differentiable all_gather too, but it is deprecated.
    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor) -> Tensor:
        everyone = [torch.empty_like(value) for _ in range(num_workers())]
        dist.all_gather(everyone, value.contiguous())
        return torch.stack(everyone)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        # A copy: autograd may have given the same memory to others.
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[rank()]


class _GatherRows(torch.autograd.Function):
    """Without padding; and on the way back a worker gets what concerns its own rows alone."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows_N: list[int]) -> Tensor:
        ctx.rows_N = rows_N
        everyone = own.new_empty(sum(rows_N), *own.shape[1:])
        copies = own.repeat(len(rows_N), *[1] * (own.ndim - 1))
        dist.all_to_all_single(everyone, copies, rows_N, [len(own)] * len(rows_N))
        return everyone

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows_N: list[int] = ctx.rows_N
        own = rows_N[rank()]
        parts = grad.new_empty(len(rows_N) * own, *grad.shape[1:])
        dist.all_to_all_single(parts, grad.contiguous(), [own] * len(rows_N), rows_N)
        return parts.view(len(rows_N), own, *grad.shape[1:]).sum(0), None
