"""Each loss against plain loops, and a batch over several workers against one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vsa_ray.alignment import AlignmentConfig, image_sentence_scores, ranking_loss

SUM = AlignmentConfig(loss="sum_of_hinges", margin=1.5)
HARDEST = AlignmentConfig(loss="hardest_negative", margin=1.5)
SOFTMAX = AlignmentConfig(loss="softmax", temperature=0.7)
CONFIGS = [pytest.param(config, id=config.loss) for config in (SUM, HARDEST, SOFTMAX)]


def sum_of_hinges_in_loops(S: Tensor) -> Tensor:
    loss = S.new_zeros(())
    for k in range(len(S)):
        for l in range(len(S)):  # noqa: E741 - the paper's letter
            if l != k:
                loss = loss + max(S.new_zeros(()), S[k, l] - S[k, k] + SUM.margin)
                loss = loss + max(S.new_zeros(()), S[l, k] - S[k, k] + SUM.margin)
    return loss / len(S)


def hardest_negative_in_loops(S: Tensor) -> Tensor:
    loss = S.new_zeros(())
    for k in range(len(S)):
        others = [l for l in range(len(S)) if l != k]  # noqa: E741
        if others:
            row = max(S[k, l] for l in others)  # noqa: E741
            column = max(S[l, k] for l in others)  # noqa: E741
            loss = loss + max(S.new_zeros(()), row - S[k, k] + HARDEST.margin)
            loss = loss + max(S.new_zeros(()), column - S[k, k] + HARDEST.margin)
    return loss / len(S)


def softmax_in_loops(S: Tensor) -> Tensor:
    loss = S.new_zeros(())
    for k in range(len(S)):
        weights = (S / SOFTMAX.temperature).exp()
        loss = loss - (weights[k, k] / sum(weights[k, l] for l in range(len(S)))).log()  # noqa: E741
        loss = loss - (weights[k, k] / sum(weights[l, k] for l in range(len(S)))).log()  # noqa: E741
    return loss / len(S)


LOOPS = [
    pytest.param(SUM, sum_of_hinges_in_loops, id="sum_of_hinges"),
    pytest.param(HARDEST, hardest_negative_in_loops, id="hardest_negative"),
    pytest.param(SOFTMAX, softmax_in_loops, id="softmax"),
]


@pytest.mark.parametrize(("config", "in_loops"), LOOPS)
@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_losses_are_those_of_plain_loops(
    config: AlignmentConfig, in_loops: Callable[[Tensor], Tensor], pairs: int
) -> None:
    scores_BB = (2 * torch.randn(pairs, pairs, dtype=torch.float64)).requires_grad_()
    loss, expected = ranking_loss(scores_BB, 0, config), in_loops(scores_BB)
    torch.testing.assert_close(loss, expected)
    if pairs > 1:
        (gradient,) = torch.autograd.grad(loss, scores_BB)
        (expected_gradient,) = torch.autograd.grad(expected, scores_BB)
        torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_are_finite_differences(config: AlignmentConfig) -> None:
    scores_BB = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda scores: ranking_loss(scores, 0, config), scores_BB)


@pytest.mark.parametrize(
    ("config", "value"), [(SUM, 2 * 9 * 1.5), (HARDEST, 2 * 1.5), (SOFTMAX, 2 * math.log(10))]
)
def test_equal_scores_give_the_documented_value(config: AlignmentConfig, value: float) -> None:
    assert float(ranking_loss(torch.full((10, 10), 3.0), 0, config)) == pytest.approx(value)


@dataclass
class Exchange:
    """A `gather` for several workers of one process: first all speak, then all hear."""

    spoken: list[Tensor]
    heard: Tensor | None = None

    def gather(self, x_C: Tensor) -> Tensor:
        if self.heard is None:
            self.spoken.append(x_C)
            return x_C[None]
        return self.heard


def loss_of_workers(scores_CC: Tensor, shares: list[int], config: AlignmentConfig) -> Tensor:
    """The sum of what workers get who hold some rows each, and meet in `gather` alone."""
    firsts = [sum(shares[:worker]) for worker in range(len(shares))]
    exchange = Exchange([])
    for scores_BC, first in zip(scores_CC.split(shares), firsts, strict=True):
        ranking_loss(scores_BC, first, config, gather=exchange.gather)
    if exchange.spoken:
        exchange.heard = torch.stack(exchange.spoken)
    losses = [
        ranking_loss(scores_BC, first, config, gather=exchange.gather)
        for scores_BC, first in zip(scores_CC.split(shares), firsts, strict=True)
    ]
    return torch.stack(losses).sum()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("shares", [[4, 5], [1, 6, 2], [3, 0, 1, 5], [9, 0]], ids=str)
def test_workers_share_one_loss(config: AlignmentConfig, shares: list[int]) -> None:
    """From regions and words to gradients, all of them ragged, whoever holds which images."""
    pairs = sum(shares)
    num_regions_B, lengths_C = torch.randint(1, 6, (2, pairs))
    regions = torch.randn(int(num_regions_B.sum()), 8, dtype=torch.float64, requires_grad=True)
    words = torch.randn(int(lengths_C.sum()), 8, dtype=torch.float64, requires_grad=True)

    whole = ranking_loss(image_sentence_scores(regions, num_regions_B, words, lengths_C), 0, config)
    rows = [int(share.sum()) for share in num_regions_B.split(shares)]
    scores_of_workers = [
        image_sentence_scores(own_PD, own_B, words, lengths_C)
        for own_PD, own_B in zip(regions.split(rows), num_regions_B.split(shares), strict=True)
    ]
    shared = loss_of_workers(torch.cat(scores_of_workers), shares, config)

    torch.testing.assert_close(shared, whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(shared, (regions, words)),
        torch.autograd.grad(whole, (regions, words)),
        rtol=1e-9,
        atol=1e-9,
    )


def test_workers_agree_on_which_of_equal_negatives_is_the_hardest() -> None:
    scores_CC = torch.zeros(6, 6, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(ranking_loss(scores_CC, 0, HARDEST), scores_CC)
    (shared,) = torch.autograd.grad(loss_of_workers(scores_CC, [1, 3, 2], HARDEST), scores_CC)
    assert torch.equal(whole, shared)


def test_an_image_without_a_sentence_is_refused() -> None:
    with pytest.raises(ValueError, match="images 2 to 4, but 4 sentences"):
        ranking_loss(torch.zeros(3, 4), 2, SUM)
