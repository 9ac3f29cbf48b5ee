"""What the workers of a training run tell one another, with gradients.

A worker scores its own images against the words of every worker, so the ranking loss sees every
negative of the global batch; see alignment/losses.py for what is left to exchange.
"""

from __future__ import annotations

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


def gather_rows(own: Ragged) -> Ragged:
    """The rows of every worker, end to end in order of rank. Differentiable."""
    if num_workers() == 1:
        return own
    device = own.rows.device
    counts_N2 = gather(torch.tensor([own.rows.shape[0], len(own.lengths)], device=device))
    most_rows, most_lengths = counts_N2.amax(dim=0).tolist()
    rows = gather(_padded(own.rows, most_rows))
    lengths = gather(_padded(own.lengths, most_lengths))
    return Ragged(
        torch.cat([rows[n, :count] for n, count in enumerate(counts_N2[:, 0].tolist())]),
        torch.cat([lengths[n, :count] for n, count in enumerate(counts_N2[:, 1].tolist())]),
    )


def _padded(value: Tensor, rows: int) -> Tensor:
    """Collectives need one shape on every worker."""
    return torch.cat([value, value.new_zeros(rows - len(value), *value.shape[1:])])


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
