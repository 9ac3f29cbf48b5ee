"""Errors and warnings of training: numbers that are not finite, and collapsed models."""

from __future__ import annotations

import math

from vsa_ray.errors import UserError
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.tasks import SPREAD, Metrics, Task

NEAR = 0.01
"""Relative distance below which a mean loss counts as that of a collapsed model."""

SAME = 1e-5
"""Spread below which scores are all equal except for rounding."""

WARMUP = 60
"""Warm-up steps to recommend: they keep Adam's first steps from collapsing the model."""

GROUP = "in a pipeline, training is called alignment_training or captioner_training"


class TrainingError(UserError):
    """A training that cannot continue; retrying would not help."""


def not_finite(names: list[str], epoch: int, step: int, config: TrainConfig) -> TrainingError:
    """The error for numbers that are not finite; `epoch` and `step` count from 1."""
    what = f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
    return TrainingError(
        f"{what or 'a number of another worker'} became infinite or NaN in step {step} of epoch "
        f"{epoch}; try a lower training.learning_rate (it is {config.learning_rate}) or "
        f"training.max_gradient ({config.max_gradient}); {GROUP}; if it is step 1 of epoch 1, "
        "check the features for infinite or NaN values"
    )


def collapse(
    task: Task, config: TrainConfig, metrics: Metrics, *, epoch: int, images: float
) -> str:
    """A warning if the model has collapsed after epoch `epoch` (from 1); "" if all is well.

    Args:
        images: images of a global batch.
    """
    if epoch < 2:  # every training starts like that
        return ""
    loss, collapsed = metrics["train/loss"], task.collapsed_loss(images)
    if collapsed is not None and math.isclose(loss, collapsed, rel_tol=NEAR):
        found = (
            f"the loss of epoch {epoch} is {loss:.4g}, and that of a model that scores all pairs "
            f"alike is {collapsed:.4g}"
        )
    elif metrics.get(SPREAD, 1.0) < SAME:
        found = f"after epoch {epoch} its outputs are the same for all dev images"
    else:
        return ""
    ways = [f"a lower training.learning_rate (it is {config.learning_rate})"]
    if config.warmup_steps < WARMUP:
        ways.append(f"training.warmup_steps {WARMUP}")
    ways += task.advice()
    return f"the model has collapsed: {found}; try {', '.join(ways)}; {GROUP}"
