"""One step, and what is watched of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from vsa_ray.training.config import TrainConfig, make_optimizer
from vsa_ray.training.step import Monitor, train_step

CPU = torch.device("cpu")


class Square(nn.Module):
    """The loss is the sum of (weight x)^2; `unused` has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.unused = nn.Parameter(torch.tensor([7.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).square().sum()


CONFIG = TrainConfig(optimizer="sgd", learning_rate=0.1, max_gradient=3.0)


def test_a_step_learns_with_gradients_that_are_cut() -> None:
    model = Square()
    monitor = Monitor(model, CPU)
    share = train_step(
        model, make_optimizer(model, CONFIG), torch.tensor([1.0, 1.0]), CONFIG, 1, monitor
    )
    assert share.item() == 5.0
    assert not share.requires_grad
    # Gradients 2 and 4, the second cut at 3.
    torch.testing.assert_close(model.weight.detach(), torch.tensor([0.8, 1.7]))
    assert monitor.totals().tolist() == pytest.approx([5, math.sqrt(20)] * 2)


def test_a_share_counts_for_all_workers() -> None:
    model = Square()
    train_step(model, make_optimizer(model, CONFIG), torch.tensor([0.5, 0.0]), CONFIG, 4)
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [2.0, 0.0]  # DDP will divide it by 4


@pytest.mark.parametrize(("precision", "loss"), [("float32", 1.001), ("bfloat16", 1.0)])
def test_precision_is_that_of_products(
    precision: Literal["float32", "bfloat16"], loss: float
) -> None:
    """bfloat16 knows no number between 1 and 1.0078."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.001)
    config = replace(CONFIG, precision=precision)
    share = train_step(model, make_optimizer(model, config), torch.ones(1), config)
    assert share.item() == pytest.approx(loss, abs=1e-6)
    assert model.weight.dtype == model.weight.grad.dtype == torch.float32


def test_sums_over_steps() -> None:
    model = Square()
    monitor, optimizer = Monitor(model, CPU), torch.optim.SGD(model.parameters(), lr=0)
    for x in (1.0, 2.0):
        train_step(model, optimizer, torch.tensor([x, 0.0]), CONFIG, 1, monitor)
    assert monitor.totals().tolist() == pytest.approx([1 + 4, 2 + 8, 4, 8])
    assert not monitor.is_broken()


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        (math.nan, ["the loss", "the gradient of weight"]),
        (1e25, ["the loss", "the gradient of weight"]),
    ],
)
def test_the_first_broken_step_is_kept(bad: float, names: list[str]) -> None:
    model = Square()
    monitor, optimizer = Monitor(model, CPU), torch.optim.SGD(model.parameters(), lr=0)
    for x in (1.0, 1.0, bad, 1.0, math.nan):
        train_step(model, optimizer, torch.tensor([x, 1.0]), CONFIG, 1, monitor)
    assert monitor.is_broken()
    assert monitor.broken() == (3, names)


def test_a_gradient_alone_can_be_broken() -> None:
    class Root(Square):
        def forward(self, x: Tensor) -> Tensor:
            return (self.weight * x).abs().sqrt().sum()  # its slope at 0 is infinite

    model = Root()
    monitor, optimizer = Monitor(model, CPU), torch.optim.SGD(model.parameters(), lr=0)
    train_step(model, optimizer, torch.tensor([0.0, 1.0]), CONFIG, 1, monitor)
    assert monitor.broken() == (1, ["the gradient of weight"])
