"""A job through `ray job submit`, as on a cluster."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from vsa_ray import schema, storage
from vsa_ray.corpora import SceneConfig, generate_scenes

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]


def test_submit(cluster: object, tmp_path: Path) -> None:
    generate_scenes(str(tmp_path / "scenes"), SceneConfig(train=2, dev=1, test=1))
    client = JobSubmissionClient(f"http://{cluster.dashboard_url}")  # type: ignore[attr-defined]
    deadline = time.monotonic() + 300
    job = submit(
        client,
        deadline,
        entrypoint=f"{sys.executable} -m jobs.detect_regions "
        f"--images {tmp_path}/scenes/images --out {tmp_path}/regions",
        runtime_env={
            "working_dir": str(PROJECT),
            "excludes": [".git", ".venv", "runs"],
            "env_vars": {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        },
    )
    while not client.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(1)
    assert client.get_job_status(job) is JobStatus.SUCCEEDED, client.get_job_logs(job)
    assert len(storage.read_table(str(tmp_path / "regions"), schema.REGIONS)) == 4


def submit(client: JobSubmissionClient, deadline: float, **job: Any) -> str:
    """Right after Ray's start, its job agent may not be there yet."""
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(2)
