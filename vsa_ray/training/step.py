"""One training step, independent of where it runs: forward, backward, clip, optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vsa_ray.training.config import TrainConfig


class Monitor:
    """Accumulates losses and gradient norms over steps, and records the first non-finite step.

    Everything stays on the device: nothing synchronises until `totals` or `broken` is called.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.names = ["the loss", *(f"the gradient of {n}" for n, _ in model.named_parameters())]
        self._parameters = list(model.parameters())
        self._sums_2 = torch.zeros(2, device=device, dtype=torch.float64)
        self._broken = torch.zeros(len(self.names), device=device, dtype=torch.bool)
        self._step = torch.zeros((), device=device, dtype=torch.int64)
        self._latest_2 = torch.zeros(2, device=device, dtype=torch.float64)

    @torch.no_grad()
    def see(self, share: Tensor) -> None:
        """Record one step: this worker's share of the loss, and the current gradients."""
        norms = [_norm(parameter.grad, share) for parameter in self._parameters]
        numbers = torch.stack([share.detach(), *norms])
        seen_2 = torch.stack([numbers[0], torch.linalg.vector_norm(numbers[1:])])
        self._latest_2 = seen_2.to(torch.float64)
        self._sums_2 += self._latest_2
        whole = ~self._broken.any()
        self._step += whole
        self._broken = torch.where(whole, ~numbers.isfinite(), self._broken)

    def totals(self) -> Tensor:
        """(4,) float64: sums over steps of loss and gradient norm, then their last values."""
        return torch.cat([self._sums_2, self._latest_2])

    def is_broken(self) -> Tensor:
        """() float64: 1 if any number was not finite."""
        return self._broken.any().to(torch.float64)

    def broken(self) -> tuple[int, list[str]]:
        """The first step with non-finite numbers, counted from 1, and what was not finite."""
        names = [name for name, bad in zip(self.names, self._broken.tolist(), strict=True) if bad]
        return int(self._step), names


def _norm(gradient: Tensor | None, like: Tensor) -> Tensor:
    if gradient is None:
        return like.new_zeros(())
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return norm.to(like.dtype)


def train_step(
    loss_of: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    config: TrainConfig,
    workers: int = 1,
    monitor: Monitor | None = None,
) -> Tensor:
    """Learn from one batch -> this worker's share of the global batch's loss, detached.

    Args:
        loss_of: computes the share for a batch; wrapped in DDP if there are several workers.
        workers: number of workers that share the global batch.
        monitor: records the loss, and the gradients before clipping.
    """
    device = next(loss_of.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
        share: Tensor = loss_of(batch)
    optimizer.zero_grad(set_to_none=True)
    (share * workers).backward()  # DDP averages gradients, but shares add up
    if monitor is not None:
        monitor.see(share)
    nn.utils.clip_grad_value_(loss_of.parameters(), config.max_gradient)
    optimizer.step()
    return share.detach()
