"""Eq. 8 and its gradient against plain loops, dense autograd and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vsa_ray.alignment import MAX_REGIONS, image_sentence_scores, scores

NUM_REGIONS = [3, 1, 20, 7, 7, 19, 2]
LENGTHS = [5, 1, 12, 3, 0, 9]


def vectors(
    num_regions: list[int], lengths: list[int], *, dim: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(num_regions) * 100 + len(lengths))
    regions_PD = torch.randn(sum(num_regions), dim, generator=generator, dtype=torch.float64)
    words_WD = torch.randn(sum(lengths), dim, generator=generator, dtype=torch.float64)
    return (
        regions_PD.to(dtype).requires_grad_(),
        torch.tensor(num_regions, dtype=torch.int64),
        words_WD.to(dtype).requires_grad_(),
        torch.tensor(lengths, dtype=torch.int64),
    )


def in_loops(regions_PD: Tensor, num_regions: Tensor, words_WD: Tensor, lengths: Tensor) -> Tensor:
    """Eq. 8 as it is written; the last of equal regions wins."""
    rows = []
    for regions in regions_PD.split(num_regions.tolist()):
        row = []
        for words in words_WD.split(lengths.tolist()):
            score = regions_PD.new_zeros(())
            for word in words:
                best = regions[0] @ word
                for region in regions[1:]:
                    if region @ word >= best:
                        best = region @ word
                score = score + best
            row.append(score)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def gradients(scores_BC: Tensor, upstream_BC: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(scores_BC, inputs, upstream_BC)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles, blocks and stripes, none of which fits evenly."""
    monkeypatch.setattr(scores, "_TILE_ROWS", {"cpu": 17})
    monkeypatch.setattr(scores, "_TILE_WORDS", 11)
    monkeypatch.setattr(scores, "_REDUCED", {"cpu": 100})
    monkeypatch.setattr(scores, "_STRIPE_COLUMNS", (4, 4))
    monkeypatch.setattr(scores, "_BLOCK_IMAGES", 2)
    monkeypatch.setattr(scores, "_BLOCK_WORDS", 7)


@pytest.mark.parametrize("steps", ["one step", "small_steps"])
def test_scores_and_gradients_are_those_of_plain_loops(
    steps: str, request: pytest.FixtureRequest
) -> None:
    if steps == "small_steps":
        request.getfixturevalue(steps)
    regions, num_regions, words, lengths = vectors(NUM_REGIONS, LENGTHS)
    expected_BC = in_loops(regions, num_regions, words, lengths)
    scores_BC = image_sentence_scores(regions, num_regions, words, lengths)
    torch.testing.assert_close(scores_BC, expected_BC)

    upstream_BC = torch.randn_like(scores_BC)
    upstream_BC[upstream_BC > 0.5] = 0  # pairs that a hinge leaves alone
    upstream_BC[2] = 0
    upstream_BC[:, 3] = 0
    torch.testing.assert_close(
        gradients(scores_BC, upstream_BC, regions, words),
        gradients(expected_BC, upstream_BC, regions, words),
    )


def test_gradients_are_finite_differences() -> None:
    regions, num_regions, words, lengths = vectors([2, 3, 1], [2, 3], dim=4)

    def score(regions: Tensor, words: Tensor) -> Tensor:
        return image_sentence_scores(regions, num_regions, words, lengths)

    assert torch.autograd.gradcheck(score, (regions, words))


def test_no_image_is_disturbed_by_a_larger_one_beside_it() -> None:
    """All products are negative: a padded zero would win everywhere."""
    regions, num_regions, words, lengths = vectors(NUM_REGIONS, LENGTHS)
    regions, words = -regions.detach().abs(), words.detach().abs()
    scores_BC = image_sentence_scores(regions, num_regions, words, lengths)
    for image, own in enumerate(regions.split(NUM_REGIONS)):
        alone_1C = image_sentence_scores(own, num_regions[image : image + 1], words, lengths)
        torch.testing.assert_close(scores_BC[image : image + 1], alone_1C)


def test_equal_regions_give_the_gradient_to_the_last() -> None:
    regions = torch.ones(5, 4, dtype=torch.float64, requires_grad=True)
    words = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    scores_BC = image_sentence_scores(regions, torch.tensor([2, 3]), words, torch.tensor([3]))
    assert scores_BC.tolist() == [[12], [12]]
    scores_BC.sum().backward()
    assert regions.grad is not None
    assert regions.grad[:, 0].tolist() == [0, 3, 0, 0, 3]


def test_upstream_of_zeros_gives_zeros() -> None:
    regions, num_regions, words, lengths = vectors(NUM_REGIONS, LENGTHS)
    scores_BC = image_sentence_scores(regions, num_regions, words, lengths)
    for gradient in gradients(scores_BC, torch.zeros_like(scores_BC), regions, words):
        assert not gradient.any()


@pytest.mark.parametrize(("num_regions", "lengths"), [([], [2, 3]), ([3, 2], []), ([3, 2], [0, 0])])
def test_nothing_to_score(num_regions: list[int], lengths: list[int]) -> None:
    regions, num_regions_B, words, lengths_C = vectors(num_regions, lengths)
    scores_BC = image_sentence_scores(regions, num_regions_B, words, lengths_C)
    assert scores_BC.tolist() == [[0.0] * len(lengths)] * len(num_regions)
    scores_BC.sum().backward()
    assert regions.grad is not None
    assert words.grad is not None


def test_lengths_divide_the_sum() -> None:
    arguments = vectors(NUM_REGIONS, LENGTHS)
    sum_BC = image_sentence_scores(*arguments)
    sqrt_BC = image_sentence_scores(*arguments, score="sqrt_length")
    mean_BC = image_sentence_scores(*arguments, score="cosine")
    for sentence, length in enumerate(LENGTHS):
        length = max(length, 1)
        torch.testing.assert_close(sqrt_BC[:, sentence], sum_BC[:, sentence] / math.sqrt(length))
        torch.testing.assert_close(mean_BC[:, sentence], sum_BC[:, sentence] / length)


def test_evaluation_keeps_no_winners(small_steps: None) -> None:
    arguments = vectors(NUM_REGIONS, LENGTHS)
    detached = [argument.detach() for argument in arguments]
    with torch.inference_mode():
        scores_BC = image_sentence_scores(*detached)
    torch.testing.assert_close(scores_BC, image_sentence_scores(*arguments).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_stays_near(dtype: torch.dtype) -> None:
    exact = vectors(NUM_REGIONS, LENGTHS, dim=64)
    rough = vectors(NUM_REGIONS, LENGTHS, dim=64, dtype=dtype)
    scores_BC = image_sentence_scores(*rough)
    assert scores_BC.dtype == torch.float32
    tolerance = 20 * torch.finfo(dtype).eps
    exact_BC = image_sentence_scores(*exact)
    difference = (scores_BC - exact_BC).detach().abs().max()
    assert difference < tolerance * exact_BC.detach().abs().max()

    upstream_BC = torch.randn_like(exact_BC)
    roughs = gradients(scores_BC, upstream_BC.float(), rough[0], rough[2])
    exacts = gradients(exact_BC, upstream_BC, exact[0], exact[2])
    for got, expected in zip(roughs, exacts, strict=True):
        assert got.dtype == dtype
        # A close second may win in low precision, so compare as a whole and not by element.
        cosine = torch.cosine_similarity(got.double().flatten(), expected.flatten(), dim=0)
        assert cosine > 1 - 0.02 * (dtype != torch.float32) - 1e-6


@pytest.mark.parametrize("steps", ["one step", "small_steps"])
def test_bfloat16_gradients_are_sums_in_float32(steps: str, request: pytest.FixtureRequest) -> None:
    """With one region an image there is no choice that rounding could change."""
    if steps == "small_steps":
        request.getfixturevalue(steps)
    regions, num_regions, words, lengths = vectors([1] * 40, LENGTHS, dtype=torch.bfloat16)
    scores_BC = image_sentence_scores(regions, num_regions, words, lengths)
    upstream_BC = torch.randn_like(scores_BC)
    got = gradients(scores_BC, upstream_BC, regions, words)

    weights_BW = upstream_BC.double().repeat_interleave(lengths, 1)
    tables = regions.detach().double(), words.detach().double()
    expected = (weights_BW @ tables[1], weights_BW.T @ tables[0])
    sizes = (weights_BW.abs() @ tables[1].abs(), weights_BW.T.abs() @ tables[0].abs())
    for gradient, exact, size in zip(got, expected, sizes, strict=True):
        # Rounded three times: each weight, the sum of each block, the sum of blocks.
        assert ((gradient.double() - exact).abs() <= 3 * 2**-9 * size).all()


def test_autocast_makes_the_products_in_its_own_type() -> None:
    arguments = vectors(NUM_REGIONS, LENGTHS, dim=64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores_BC = image_sentence_scores(*arguments)
    lower = [a.bfloat16() if a.is_floating_point() else a for a in arguments]
    assert torch.equal(scores_BC, image_sentence_scores(*lower))
    for gradient in gradients(scores_BC, torch.ones_like(scores_BC), arguments[0], arguments[2]):
        assert gradient.dtype == torch.float32


def test_nan_goes_through_and_breaks_nothing() -> None:
    regions, num_regions, words, lengths = vectors([2, 3], [2, 3])
    with torch.no_grad():
        regions[0, 0] = torch.nan
    scores_BC = image_sentence_scores(regions, num_regions, words, lengths)
    assert scores_BC.isnan().tolist() == [[True, True], [False, False]]
    scores_BC.sum().backward()


def test_counts_that_do_not_fit_are_refused() -> None:
    regions, num_regions, words, lengths = vectors([2, 3], [2, 3])
    with pytest.raises(ValueError, match="num_regions_B adds up to 6, but there are 5 rows"):
        image_sentence_scores(regions, num_regions + torch.tensor([0, 1]), words, lengths)
    with pytest.raises(ValueError, match="lengths_C adds up to 4, but there are 5 rows"):
        image_sentence_scores(regions, num_regions, words, lengths - torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="1 to 127 regions, got images with 0 and with 5"):
        image_sentence_scores(regions, torch.tensor([0, 5]), words, lengths)
    many = regions.new_zeros(MAX_REGIONS + 1, regions.shape[1])
    with pytest.raises(ValueError, match="1 to 127 regions"):
        image_sentence_scores(many, torch.tensor([len(many)]), words, lengths)
