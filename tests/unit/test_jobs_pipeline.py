"""What the pipeline tells of its stages; the stages themselves are replaced."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from jobs import pipeline
from vsa_ray import storage


@pytest.mark.usefixtures("here")
def test_progress(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def detect() -> None:
        storage.commit("run/regions", {"rows": 3})

    stages = {"read_corpus": lambda: None, "detect_regions": detect, "evaluate": lambda: None}
    monkeypatch.setattr(pipeline, "_stages", lambda config, run: stages)
    storage.commit("run/phrases", {"rows": 0})
    caplog.set_level(logging.INFO, logger="jobs")
    pipeline.main(pipeline.JobConfig(corpus="corpus", out="run"))
    *told, done, metrics, gallery, runs = caplog.messages
    assert told == [
        "1/3  read_corpus",
        "1/3  read_corpus was already done",
        "2/3  detect_regions",
        "2/3  detect_regions took 0 s",
        "3/3  evaluate",
        "3/3  evaluate took 0 s",
    ]
    assert re.fullmatch(r"done in 0\.0 minutes: read_corpus \d+%, detect_.*, evaluate \d+%", done)
    assert metrics == f"metrics: {Path.cwd()}/run/metrics.json"
    assert gallery == f"gallery: {Path.cwd()}/run/gallery/index.html"
    assert runs.startswith("runs:    mlflow ui --backend-store-uri sqlite:///")


def test_every_stage_has_an_output_or_is_evaluate() -> None:
    stages = pipeline._stages(pipeline.JobConfig(corpus="c", out="o"), None)  # type: ignore[arg-type]
    assert list(stages) == [*pipeline.OUTPUTS, "evaluate"]
