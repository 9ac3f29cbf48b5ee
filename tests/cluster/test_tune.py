"""A search on real trials."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from jobs import train_alignment, tune
from vsa_ray import config, storage, tracking
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.training.config import TrainConfig
from vsa_ray.tuning import SearchConfig
from vsa_ray.vocabulary import VocabularyConfig

pytestmark = pytest.mark.cluster


def test_a_search(toy: Path) -> None:
    job = tune.JobConfig(
        regions=str(toy / "regions"),
        sentences=str(toy / "sentences"),
        out=str(toy / "tune"),
        search=SearchConfig(trials=2, embed_dim=(8, 16), grace_epochs=1),
        vocabulary=VocabularyConfig(min_count=2),
        alignment=AlignmentConfig(hidden_dim=8, word_dim=8),
        training=TrainConfig(epochs=2, batch_size=10),
    )
    trials = tune.main(job)
    assert len(trials) == 2
    assert trials[0]["score"] >= trials[1]["score"]
    assert set(trials[0]["settings"]) == {"margin", "embed_dim", "learning_rate"}
    assert storage.read_json(str(toy / "tune" / "trials.json")) == trials

    best = config.parse(
        train_alignment.JobConfig,
        description="",
        argv=["--config", str(toy / "tune" / "best.yaml")],
    )
    assert best.alignment.embed_dim == trials[0]["settings"]["embed_dim"]
    assert best.alignment.hidden_dim == 8

    client = mlflow.MlflowClient(tracking_uri=tracking.store())
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == "tune"]
    children = [
        run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert len(children) == 2
    assert all("dev/mean_recall" in run.data.metrics for run in children)
