"""What a training says when it goes wrong: numbers that are not finite, models that collapsed."""

from __future__ import annotations

import math

from vsa_ray.errors import UserError
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.tasks import SPREAD, Metrics, Task

NEAR = 0.01
"""A mean loss so near to the collapsed one, relatively, has not left it."""

SAME = 1e-5
"""Scores that spread no further are all the same but for rounding."""

WARMUP = 60
"""Steps that keep Adam's first ones from putting a model where it tells nothing apart."""

GROUP = "in a pipeline, training is called alignment_training or captioner_training"


class TrainingError(UserError):
    """A training that cannot go on, however often it is tried again."""


def not_finite(names: list[str], epoch: int, step: int, config: TrainConfig) -> TrainingError:
    """The error for numbers that are not finite; `epoch` and `step` count from 1."""
    what = f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
    return TrainingError(
        f"{what or 'a number of another worker'} became infinite or NaN in step {step} of epoch "
        f"{epoch}; try a lower training.learning_rate (it is {config.learning_rate}) or "
        f"training.max_gradient ({config.max_gradient}); {GROUP}; if it is step 1 of epoch 1, look "
        "for such numbers in the features"
    )


def collapse(
    task: Task, config: TrainConfig, metrics: Metrics, *, epoch: int, images: float
) -> str:
    """A warning if the model tells nothing apart after epoch `epoch` (from 1); "" if all is well.

    Args:
        images: of a global batch.
    """
    if epoch < 2:  # that is how every training starts
        return ""
    loss, collapsed = metrics["train/loss"], task.collapsed_loss(images)
    if collapsed is not None and math.isclose(loss, collapsed, rel_tol=NEAR):
        found = (
            f"the loss of epoch {epoch} is {loss:.4g}, where a model that tells nothing apart has "
            f"{collapsed:.4g}"
        )
    elif metrics.get(SPREAD, 1.0) < SAME:
        found = f"after epoch {epoch} the model says the same of all dev images"
    else:
        return ""
    ways = [f"a lower training.learning_rate (it is {config.learning_rate})"]
    if config.warmup_steps < WARMUP:
        ways.append(f"training.warmup_steps {WARMUP}")
    ways += task.advice()
    return f"the model has collapsed: {found}; try {', '.join(ways)}; {GROUP}"
