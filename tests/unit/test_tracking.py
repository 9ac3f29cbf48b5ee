"""What MLflow is told, in a store of its own; and that a dead store stops nothing."""

from __future__ import annotations

import logging
import re
import socket
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run as StoredRun
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)

from vsa_ray import tracking
from vsa_ray.tracking import Run, TrackingError

pytestmark = pytest.mark.usefixtures("here")


def stored(run: Run) -> StoredRun:
    return mlflow.MlflowClient(run.uri).get_run(run.run_id)


def test_runs_go_to_the_working_directory_or_a_server(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.store() == f"sqlite:///{here}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking.store() == "http://tracking:5000"


def test_settings_are_parameters_by_dotted_names() -> None:
    settings = {"out": "x", "training": {"epochs": 3, "sizes": (1, 2)}, "long": "y" * 9_000}
    with tracking.run("a job", settings) as run:
        pass
    found = stored(run).data
    assert found.params == {
        "out": "x",
        "training.epochs": "3",
        "training.sizes": "(1, 2)",
        "long": "y" * 500,
    }
    assert found.tags["mlflow.runName"] == "a job"
    assert found.tags.keys() >= {"version.torch", "version.ray", "version.vsa_ray", "python"}


def test_what_was_killed_below_a_run_is_closed_with_it() -> None:
    with tracking.run("tune", {}) as parent:
        with tracking.run("a whole trial", {}, parent=parent) as whole:
            pass
        opened = tracking.run("a trial that is killed", {}, parent=parent)
        killed = opened.__enter__()
        with tracking.run("another job", {}) as other:
            assert stored(killed).info.status == "RUNNING"
    assert [stored(run).info.status for run in (parent, whole, killed, other)] == [
        *("FINISHED", "FINISHED", "KILLED", "FINISHED")
    ]


def test_metrics_by_step() -> None:
    with tracking.run("training", {}) as run:
        for epoch in (1, 2):
            run.metrics({"train/loss": 4.0 / epoch, "dev/meteor": None}, step=epoch)
        run.metrics({})
    history = mlflow.MlflowClient(run.uri).get_metric_history(run.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 4.0), (2, 2.0)]
    assert stored(run).data.metrics == {"train/loss": 2.0}


def test_a_run_below_another() -> None:
    with tracking.run("pipeline", {}) as parent, tracking.run("stage", {}, parent=parent) as child:
        pass
    assert stored(child).data.tags["mlflow.parentRunId"] == parent.run_id
    assert "mlflow.parentRunId" not in stored(parent).data.tags
    assert stored(child).info.experiment_id == stored(parent).info.experiment_id


def test_a_run_ends_as_its_block_does() -> None:
    with tracking.run("good", {}) as good:
        assert stored(good).info.status == "RUNNING"
    assert stored(good).info.status == "FINISHED"
    with pytest.raises(KeyError, match="lost"), tracking.run("bad", {}) as bad:
        raise KeyError("lost")
    assert stored(bad).info.status == "FAILED"


def test_a_killed_job_has_failed() -> None:
    with pytest.raises(KeyboardInterrupt), tracking.run("bad", {}) as bad:
        raise KeyboardInterrupt
    assert stored(bad).info.status == "FAILED"


def test_texts_are_kept_below_the_working_directory(here: Path) -> None:
    with tracking.run("evaluate", {}) as run:
        run.text("<html>", "gallery/index.html")
    (kept,) = (here / "mlruns").rglob("index.html")
    assert kept.read_text() == "<html>"


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.usefixtures("no_patience")
def test_a_server_that_is_gone_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    run = Run("http://127.0.0.1:9", "some-run")
    run.metrics({"train/loss": 1.0})
    run.params({"epochs": 1})
    run.tags({"checkpoint": "there"})
    run.text("text", "notes.txt")
    warnings = [entry for entry in caplog.records if entry.name == "vsa_ray.tracking"]
    assert len(warnings) == 4
    assert all(entry.levelno == logging.WARNING for entry in warnings)
    assert "http://127.0.0.1:9" in caplog.text


def break_store(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute("ALTER TABLE metrics RENAME TO lost_metrics")
        database.execute("ALTER TABLE runs RENAME TO lost_runs")


def test_a_store_that_dies_during_a_job_does_not_stop_it(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking.run("training", {}) as run:
        break_store(here)
        run.metrics({"train/loss": 1.0})
    assert "did not accept a log" in caplog.text


def test_a_store_that_dies_does_not_hide_why_the_job_failed(here: Path) -> None:
    def job() -> None:
        with tracking.run("training", {}):
            break_store(here)
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        job()


def test_a_dead_server_does_not_hold_up_an_epoch_for_minutes() -> None:
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() <= 2  # 7 of MLflow's own take four minutes


def test_a_silent_server_holds_up_a_training_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() <= 20  # of MLflow's own 120, with two retries
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and that is all
        run = Run(f"http://127.0.0.1:{silent.getsockname()[1]}", "some-run")
        for step in range(100):
            run.metrics({"train/loss": 1.0}, step=step)
    (warning,) = [entry for entry in caplog.records if entry.name == "vsa_ray.tracking"]
    assert re.search(r"did not accept a log; sending none for 1\d s: ", warning.getMessage())


def test_a_store_that_was_left_in_peace_is_asked_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.run("training", {}) as run:
        monkeypatch.setitem(tracking._left_until, run.uri, time.monotonic() + 1000)
        run.metrics({"lost": 1.0})
        monkeypatch.setitem(tracking._left_until, run.uri, time.monotonic() - 1)
        run.metrics({"kept": 1.0})
    assert set(stored(run).data.metrics) == {"kept"}
    assert stored(run).info.status == "FINISHED"


@pytest.mark.parametrize("uri", ["mssql://mlflow:secret@host/db", "sqlite:///broken.db"])
def test_a_store_that_this_machine_cannot_use(
    uri: str, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For want of a driver, or since it is no database."""
    (here / "broken.db").write_bytes(b"no database" * 1000)
    Run(uri, "some-run").metrics({"train/loss": 1.0})
    assert "did not accept a log" in caplog.text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="MLflow accepts no runs at"), tracking.run("one", {}):
        pytest.fail("the job has started")
    assert "secret" not in caplog.text


def test_a_page_that_its_store_does_not_take(s3: str, caplog: pytest.LogCaptureFixture) -> None:
    client = mlflow.MlflowClient(tracking.store())
    client.create_experiment(tracking.EXPERIMENT, artifact_location=f"{s3}-missing/pages")
    with tracking.run("evaluate", {}) as run:
        run.text("text", "page.html")
    assert "NoSuchBucket" in caplog.text
    assert stored(run).info.status == "FINISHED"


def test_a_store_that_is_dead_from_the_start_is_an_error(
    no_patience: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Better now than after a night of training that nobody can look at.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with (
        pytest.raises(TrackingError, match=r"127\.0\.0\.1:9: .*; set MLFLOW_TRACKING_URI"),
        tracking.run("training", {}),
    ):
        pytest.fail("the job has started")


def test_jobs_that_start_at_once_share_an_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job makes it after this one has looked for it, and before it makes its own."""
    with tracking.run("other", {}) as other:
        experiment = stored(other).info.experiment_id
    look, looks = mlflow.MlflowClient.get_experiment_by_name, iter([False])
    monkeypatch.setattr(
        mlflow.MlflowClient,
        "get_experiment_by_name",
        lambda client, name: look(client, name) if next(looks, True) else None,
    )
    with tracking.run("this", {}) as run:
        assert stored(run).info.experiment_id == experiment


def test_a_sqlite_store_is_made_by_one_job_at_a_time(here: Path) -> None:
    order: list[str] = []

    def other() -> None:
        with tracking.run("other", {}):
            order.append("other")

    thread = threading.Thread(target=other)
    with tracking._alone(tracking.store()):
        thread.start()
        thread.join(timeout=0.3)
        order.append("this")
    thread.join()
    assert order == ["this", "other"]


def test_a_child_goes_to_its_parents_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of Ray Tune runs in a folder of its own, where the default store is another."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "trial").mkdir()
    monkeypatch.chdir(tmp_path)
    with tracking.run("search", {}) as parent:
        monkeypatch.chdir(tmp_path / "trial")
        with tracking.run("trial", {}, parent=parent) as child:
            assert child.uri == parent.uri
    assert not (tmp_path / "trial" / "mlflow.db").exists()


def test_a_store_beside_the_job_is_one_for_processes_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///some.db")
    assert tracking.store() == f"sqlite:///{here}/some.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/some.db")
    assert tracking.store() == "sqlite:////elsewhere/some.db"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://mlflow:s3cr@et@db:5432/runs", "postgresql://***@db:5432/runs"),
        ("http://user:s3cret@tracking:5000", "http://***@tracking:5000"),
        ("http://tracking:5000", "http://tracking:5000"),
        ("no http://a:b@c/d, e@f", "no http://***@c/d, e@f"),
        ("postgresql://mlflow:s3/cret@db/runs", "postgresql://***@db/runs"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
        ("sqlite:////me@home/mlflow.db", "sqlite:////me@home/mlflow.db"),
    ],
)
def test_passwords_of_a_store_are_not_shown(uri: str, shown: str) -> None:
    assert tracking.masked(uri) == shown
