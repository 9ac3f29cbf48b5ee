"""Differentiable communication between the workers of a training.

Each worker scores its own images against the words of all workers, so the ranking loss sees every
negative of the global batch; alignment/losses.py says what else has to be exchanged.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from vsa_ray.batches import Ragged

AVERAGING: dict[str, Any] = {"gradient_as_bucket_view": True, "forward_sync_buffers": False}
"""DDP's settings. Buffers never change, so they need not be broadcast at every step."""


def num_workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def gather(value: Tensor) -> Tensor:
    """The tensors of all workers, stacked -> (N, ...); all of the same shape. Differentiable.

    The gradient of a worker's tensor is the sum of its gradients from all workers' losses.
    """
    if num_workers() == 1:
        return value[None]
    gathered: Tensor = _Gather.apply(value)
    return gathered


class Exchange:
    """The rows of all workers, concatenated by rank, in two steps so that communication overlaps
    with the work between `send` and `receive`. Differentiable.

    The backward pass overlaps in the same way: autograd runs the work in between after `receive`
    and before `send`.
    """

    def __init__(self, lengths_C: Tensor) -> None:
        """Exchange the lengths of each worker's items, which are known before their rows."""
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
        """The rows of all workers, and the index of this worker's first item."""
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
        # A copy: autograd may share this memory.
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[rank()]


class _Message:
    """Send own rows to every worker, or (back) each worker its own rows; without padding."""

    def __init__(self, rows: Tensor, rows_N: list[int], *, back: bool = False) -> None:
        own_N = [rows_N[rank()]] * len(rows_N)
        # Keep the buffer until everything has arrived.
        self._rows = rows.contiguous() if back else rows.repeat(len(rows_N), *[1] * (rows.ndim - 1))
        sent_N, arriving_N = (rows_N, own_N) if back else (own_N, rows_N)
        self._arriving = rows.new_empty(sum(arriving_N), *rows.shape[1:])
        self._work = dist.all_to_all_single(
            self._arriving, self._rows, arriving_N, sent_N, async_op=True
        )

    def arrived(self) -> Tensor:
        assert self._work is not None  # None only for processes outside the group
        self._work.wait()
        return self._arriving


class _Way:
    """State shared by `_Send` and `_Receive`, in the forward and the backward pass."""

    def __init__(self, rows_N: list[int]) -> None:
        self.rows_N = rows_N
        self.message: _Message | None = None

    def arrived(self) -> Tensor:
        assert self.message is not None
        arrived, self.message = self.message.arrived(), None
        return arrived


class _Send(torch.autograd.Function):
    """Returns an empty tensor, through which autograd finds the way back."""

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
