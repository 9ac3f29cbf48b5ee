"""Settings of a training: the schedule, and what cannot work."""

from __future__ import annotations

import pytest

from vsa_ray.training.config import TrainConfig, learning_rate


def test_the_cosine_falls_to_almost_nothing() -> None:
    config = TrainConfig(epochs=4, learning_rate=0.5)
    rates = [learning_rate(config, epoch, 1) for epoch in range(4)]
    assert rates == pytest.approx([0.5, 0.4267767, 0.25, 0.0732233])
    constant = TrainConfig(epochs=4, learning_rate=0.5, schedule="constant")
    assert learning_rate(constant, 3, 1) == 0.5


def test_the_rate_rises_over_the_first_steps() -> None:
    config = TrainConfig(epochs=4, learning_rate=0.5, schedule="constant", warmup_steps=4)
    rates = [learning_rate(config, 0, step) for step in range(1, 7)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    falling = TrainConfig(epochs=2, learning_rate=0.5, warmup_steps=10)
    assert learning_rate(falling, 1, 8) == pytest.approx(0.25 * 0.8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"checkpoint_minutes": -1.0}, "checkpoint_minutes must be > 0"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0"),
        ({"warmup_steps": -1}, "warmup_steps must be >= 0, got -1"),
        ({"learning_rate": float("inf")}, "learning_rate must be finite, got inf"),
        ({"weight_decay": float("nan")}, "weight_decay must be >= 0, got nan"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"min_workers": 3, "num_workers": 2}, r"between 0 and num_workers \(2\), got 3"),
        ({"num_workers": 3, "batch_size": 5}, "at least 2 images per worker, got 5 for 3"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)
