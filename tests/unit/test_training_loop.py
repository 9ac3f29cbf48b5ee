"""What a training asks of a cluster."""

from __future__ import annotations

import pytest
import ray

from vsa_ray.training.config import TrainConfig
from vsa_ray.training.loop import _scaling


@pytest.mark.parametrize(
    ("cpus", "workers", "at_once", "each"),
    [
        (2, 1, 1, 0.75),  # of two CPUs 1.25 are left for data and a trial of Tune
        (2, 2, 1, 0.375),
        (2, 1, 2, 0.375),
        (16, 2, 4, 0.75),
        (1, 1, 1, 0.01),
    ],
)
def test_workers_leave_cpus_for_their_data(
    monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int, at_once: int, each: float
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus)})
    scaling = _scaling(TrainConfig(num_workers=workers), at_once)
    assert scaling.resources_per_worker == {"CPU": each}
    assert not scaling.use_gpu


def test_a_worker_takes_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    scaling = _scaling(TrainConfig(num_workers=2), 1)
    assert scaling.use_gpu
    assert scaling.num_workers == 2
