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

AVERAGING: dict[str, Any] = {"gradient_as_bucket_view": True, "forward_sync_buffers": False}
"""How DDP averages gradients. Buffers never change, so no step needs to tell them."""


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


class Exchange:
    """The rows of every worker, end to end in order of rank, with time for other work between
    `send` and `receive`. Differentiable.

    Their gradients are on their way at the same time: autograd goes backwards through what was done
    in between after `receive` and before `send`.
    """

    def __init__(self, lengths_C: Tensor) -> None:
        """Tell the lengths of this worker's things, which are known before their rows."""
        self._lengths, self._first = lengths_C, 0
        self._rows_N = [0]
        if num_workers() > 1:
            things_N = gather(torch.tensor(len(lengths_C), device=lengths_C.device)).tolist()
            message = _Message(lengths_C, things_N)
            self._lengths, self._first = message.arrived(), sum(things_N[: rank()])
            self._rows_N = [int(own.sum()) for own in self._lengths.split(things_N)]

    def send(self, rows: Tensor) -> None:
        self._sent = rows
        if num_workers() > 1:
            self._way = _Way(self._rows_N)
            self._sent = _Send.apply(rows, self._way)

    def receive(self) -> tuple[Ragged, int]:
        """The rows of every worker, and at which thing this worker's own begin."""
        rows = self._sent if num_workers() == 1 else _Receive.apply(self._sent, self._way)
        return Ragged(rows, self._lengths), self._first


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


class _Message:
    """Own rows to every worker, or to each worker the rows that are its own; without padding."""

    def __init__(self, rows: Tensor, rows_N: list[int], *, back: bool = False) -> None:
        own_N = [rows_N[rank()]] * len(rows_N)
        # All of it is kept until it has arrived.
        self._rows = rows.contiguous() if back else rows.repeat(len(rows_N), *[1] * (rows.ndim - 1))
        sent_N, arriving_N = (rows_N, own_N) if back else (own_N, rows_N)
        self._arriving = rows.new_empty(sum(arriving_N), *rows.shape[1:])
        self._work = dist.all_to_all_single(
            self._arriving, self._rows, arriving_N, sent_N, async_op=True
        )

    def arrived(self) -> Tensor:
        assert self._work is not None  # it is for processes that are not in the group
        self._work.wait()
        return self._arriving


class _Way:
    """What `_Send` and `_Receive` know of one another, forwards and backwards."""

    def __init__(self, rows_N: list[int]) -> None:
        self.rows_N = rows_N
        self.message: _Message | None = None

    def arrived(self) -> Tensor:
        assert self.message is not None
        arrived, self.message = self.message.arrived(), None
        return arrived


class _Send(torch.autograd.Function):
    """Gives nothing, in a tensor through which autograd finds the way back."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, way: _Way) -> Tensor:
        ctx.way = way
        way.message = _Message(own, way.rows_N)
        return own.new_empty(0, *own.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nothing: Tensor) -> tuple[Tensor, None]:
        parts = ctx.way.arrived()
        return parts.unflatten(0, (num_workers(), -1)).sum(0), None


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sent: Tensor, way: _Way) -> Tensor:
        ctx.way = way
        return way.arrived()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.way.message = _Message(grad, ctx.way.rows_N, back=True)
        return grad.new_empty(0, *grad.shape[1:]), None
