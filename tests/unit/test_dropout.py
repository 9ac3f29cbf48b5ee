"""Masks of 16 bits against what dropout has to be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vsa_ray.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_numbers_are_dropped_or_scaled_so_that_the_mean_stays(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(333, 301, dtype=dtype)
    y = Dropout(p)(x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    zero, scaled = y.unique().tolist()
    assert zero == 0
    assert scaled == pytest.approx(1 / (1 - p), rel=5e-3)
    share = (y == 0).double().mean().item()
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-16)


def test_a_half_is_exact() -> None:
    y = Dropout(0.5)(torch.ones(1000))
    assert set(y.tolist()) == {0.0, 2.0}


def test_neighbours_are_dropped_independently() -> None:
    """The four draws that share a random number, and rows of a matrix."""
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(20_000, 8)) != 0).double()
    assert (torch.corrcoef(kept.T) - torch.eye(8)).abs().max() < 0.04
    assert kept.mean(0).sub(0.5).abs().max() < 0.02


def test_gradients_take_the_mask() -> None:
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y != 0).double() * 2)


def test_a_seed_says_what_is_dropped() -> None:
    x, drop = torch.ones(64), Dropout(0.3)
    torch.manual_seed(2)
    first, other = drop(x), drop(x)
    torch.manual_seed(2)
    assert torch.equal(drop(x), first)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (), (1,), (3, 1, 5)], ids=str)
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_nothing_is_dropped_where_nothing_is_to_be() -> None:
    x = torch.randn(50)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert isinstance(Dropout(0.5), nn.Dropout)


def test_almost_all_dropped_is_finite() -> None:
    assert Dropout(1 - 1e-9)(torch.ones(10_000)).isfinite().all()
