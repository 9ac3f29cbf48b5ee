"""What a training says when it goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from vsa_ray.training.alarms import collapse
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.tasks import SPREAD, Task


@dataclass
class Collapsed:
    """A task whose loss is so much where it tells nothing apart."""

    loss: float | None

    def collapsed_loss(self, images: float) -> float | None:
        return self.loss

    def advice(self) -> list[str]:
        return ["another task"]


def alarm(loss: float | None, spread: float = 1.0, epoch: int = 2, **config: Any) -> str:
    """What is said of a loss of 2."""
    metrics = {"train/loss": 2.0, SPREAD: spread}
    task = cast(Task, Collapsed(loss))
    return collapse(task, TrainConfig(**config), metrics, epoch=epoch, images=4)


@pytest.mark.parametrize(
    ("loss", "spread", "found"),
    [
        (
            2.01,
            1.0,
            "the loss of epoch 2 is 2, and that of a model that scores all pairs alike is 2.01",
        ),
        (2.1, 1.0, ""),
        (None, 1.0, ""),
        (2.1, 0.0, "after epoch 2 its outputs are the same for all dev images"),
        (None, 0.0, "after epoch 2 its outputs are the same for all dev images"),
    ],
)
def test_a_collapse_shows_in_the_loss_or_on_dev(
    loss: float | None, spread: float, found: str
) -> None:
    said = alarm(loss, spread)
    assert said.startswith(f"the model has collapsed: {found}; try " if found else "")
    assert bool(said) == bool(found)
    assert alarm(loss, spread, epoch=1) == ""  # how every training starts


def test_advice_is_of_settings_that_can_be_given() -> None:
    said = alarm(2.0, learning_rate=0.002, warmup_steps=30)
    assert said.endswith(
        "; try a lower training.learning_rate (it is 0.002), training.warmup_steps 60, "
        "another task; in a pipeline, training is called alignment_training or captioner_training"
    )
    assert "warmup" not in alarm(2.0, warmup_steps=60)
