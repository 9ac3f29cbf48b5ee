"""Both directions against plain autograd over one sentence at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vsa_ray.alignment.recurrence import bidirectional

LENGTHS = [[3, 1, 7, 0, 7, 2], [5], [1, 1, 1], [0, 4]]


def inputs(lengths: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(sum(lengths))
    numbers = (
        torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((sum(lengths), 4), (2, 4, 4), (2, 4))
    )
    e_WH, weight_2HH, bias_2H = numbers
    return e_WH, torch.tensor(lengths, dtype=torch.int64), weight_2HH, bias_2H


def one_by_one(e_WH: Tensor, lengths_C: Tensor, weight_2HH: Tensor, bias_2H: Tensor) -> Tensor:
    sums = []
    for sentence in e_WH.split(lengths_C.tolist()):
        both = []
        for words, weight, bias, flip in zip(
            (sentence, sentence.flip(0)), weight_2HH, bias_2H, (False, True), strict=True
        ):
            state, states = torch.zeros_like(bias), []
            for word in words:
                state = (word + state @ weight + bias).relu()
                states.append(state)
            if states:
                read = torch.stack(states)
                both.append(read.flip(0) if flip else read)
        sums += [both[0] + both[1]] if both else []
    return torch.cat(sums)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_states_and_gradients_are_those_of_plain_autograd(
    lengths: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    e_WH, lengths_C, weight_2HH, bias_2H = inputs(lengths, dtype)
    parts = (e_WH, weight_2HH, bias_2H)
    got, wanted = (f(e_WH, lengths_C, weight_2HH, bias_2H) for f in (bidirectional, one_by_one))
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
    upstream = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, parts, upstream),
        torch.autograd.grad(wanted, parts, upstream, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=10 * tolerance)


def test_gradients_are_finite_differences() -> None:
    e_WH, lengths_C, weight_2HH, bias_2H = inputs([2, 3, 1], torch.float64)

    def read(e: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return bidirectional(e, lengths_C, weight, bias)

    assert torch.autograd.gradcheck(read, (e_WH, weight_2HH, bias_2H))


def test_autocast_reads_in_its_own_type() -> None:
    arguments = inputs([3, 1, 7], torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h_WH = bidirectional(*arguments)
    lower = [a.bfloat16() if a.is_floating_point() else a for a in arguments]
    assert torch.equal(h_WH, bidirectional(*lower))
    h_WH.float().sum().backward()
    for number in (arguments[0], arguments[2], arguments[3]):
        assert number.grad is not None
        assert number.grad.dtype == torch.float32
