"""Ranking losses over the whole global batch, on any number of workers.

In the global matrix of scores, sentence k belongs to image k. Each worker holds the rows of its own
images. An image ranks the sentences in its row; a sentence ranks the images in its column, which is
spread over the workers: each reduces its part of every column to one number, and `gather` combines
these.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vsa_ray.alignment.config import AlignmentConfig

Gather = Callable[[Tensor], Tensor]
"""This worker's (C,) -> (N, C) of all workers, in order of their images; differentiable."""


def alone(x_C: Tensor) -> Tensor:
    """The `Gather` of a single worker."""
    return x_C[None]


def ranking_loss(
    scores_BC: Tensor, first: int, config: AlignmentConfig, gather: Gather = alone
) -> Tensor:
    """This worker's share of the loss; the shares add up to the loss of the global batch.

    The loss is a mean over the batch's C pairs. If all scores are equal, as in a collapsed model,
    the sum of hinges is 2 (C - 1) margin, the hardest negative 2 margin, and the softmax 2 log C.

    Args:
        scores_BC: this worker's images against all sentences of the global batch.
        first: index of the sentence of this worker's first image; the others follow in order.
        config: names the loss, its margin and its temperature.
        gather: exchanges one number per column between workers.

    Raises:
        ValueError: an image has no sentence of its own.
    """
    images, sentences = scores_BC.shape
    if not 0 <= first <= sentences - images:
        raise ValueError(
            f"ranking_loss needs a sentence for each image: images {first} to "
            f"{first + images - 1}, but {sentences} sentences"
        )
    if config.loss == "sum_of_hinges":
        share = _sum_of_hinges(scores_BC, first, config.margin, gather)
    elif config.loss == "hardest_negative":
        share = _hardest_negative(scores_BC, first, config.margin, gather)
    else:
        share = _softmax(scores_BC / config.temperature, first, gather)
    return share / sentences


def _sum_of_hinges(scores_BC: Tensor, first: int, margin: float, gather: Gather) -> Tensor:
    """Eq. 9 without its constant term, the hinge of each pair against itself."""
    images, sentences = scores_BC.shape
    true_B = scores_BC.diagonal(first)
    # A column's hinges simply add up over workers, once each worker knows all true scores.
    true_C = gather(F.pad(true_B, (first, sentences - first - images))).sum(0)
    false_BC = _without_true_pairs(scores_BC, first)
    rows = (false_BC - true_B[:, None] + margin).relu().sum()
    columns = (false_BC - true_C + margin).relu().sum()
    return rows + columns


def _hardest_negative(scores_BC: Tensor, first: int, margin: float, gather: Gather) -> Tensor:
    """The largest hinge of each row and of each column."""
    false_BC = _without_true_pairs(scores_BC, first)
    # max() sends the gradient to the first of equal values, on any number of workers; amax() would
    # split it. The row of -inf is for a worker without images.
    part_BC = F.pad(false_BC, (0, 0, 0, 1), value=-torch.inf)
    hardest_C = gather(part_BC.max(0).values).max(0).values
    true_B = scores_BC.diagonal(first)
    rows = (false_BC.max(1).values - true_B + margin).relu().sum()
    columns = (hardest_C[first : first + len(true_B)] - true_B + margin).relu().sum()
    return rows + columns


def _softmax(logits_BC: Tensor, first: int, gather: Gather) -> Tensor:
    """Negative log-probability of each image's sentence, and of each sentence's image."""
    true_B = logits_BC.diagonal(first)
    columns_C = gather(logits_BC.logsumexp(0)).logsumexp(0)
    rows = (logits_BC.logsumexp(1) - true_B).sum()
    columns = (columns_C[first : first + len(true_B)] - true_B).sum()
    return rows + columns


def _without_true_pairs(scores_BC: Tensor, first: int) -> Tensor:
    """The scores with -inf for each image's own sentence, so that it is never a negative."""
    is_true_BC = torch.zeros_like(scores_BC, dtype=torch.bool)
    is_true_BC.diagonal(first).fill_(True)
    return scores_BC.masked_fill(is_true_BC, -torch.inf)
