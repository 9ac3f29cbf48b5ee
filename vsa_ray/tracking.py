"""MLflow runs: settings, versions, metrics, artifacts. The only module that imports `mlflow`.

The store is MLFLOW_TRACKING_URI, or `mlflow.db` (SQLite) in the working directory. An SQLite file
only works on one machine: a cluster needs a tracking server.

MLflow takes seconds to import, so functions import what they need: jobs with nothing to do should
not have to wait for it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsa_ray.config import flatten
from vsa_ray.errors import UserError
from vsa_ray.versions import versions

if TYPE_CHECKING:
    import mlflow

logger = logging.getLogger(__name__)

logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # it logs every table it creates
# With MLflow's default of 7 retries, a missing server would delay every epoch by four minutes, and
# with its timeout of 120 seconds, an unresponsive one by a good part of an hour.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

EXPERIMENT = "vsa_ray"
SQLITE = "sqlite:///"
REST = 10
"""After a slow failure, nothing is sent to the store for this many times as long, so that it can
only delay a training for a small part of its time."""

_MAX_PARAM = 500
_PACKAGES = ("ray", "torch", "torchvision", "timm", "mlflow")


_left_until: dict[str, float] = {}
"""Stores that failed -> the time.monotonic() until which nothing is sent to them."""


class TrackingError(UserError):
    """The store does not accept runs."""


def store() -> str:
    """The URI of the store, independent of the working directory."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if not uri.startswith(SQLITE):
        return uri
    # Trials of a search, and workers of a cluster, have other working directories.
    return f"{SQLITE}{Path.cwd() / uri.removeprefix(SQLITE)}"


def masked(text: str) -> str:
    """A store's URI, or an error about it, with user names and passwords masked for logs."""
    return re.sub(r"(?<=://)[^/\s]\S*@", "***@", text)


def _failures() -> tuple[type[Exception], ...]:
    """What an unusable store raises. MLflow wraps only some of the errors of its stores, their
    drivers and the buckets of its artifacts."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (
        *(MlflowException, SQLAlchemyError, ImportError, OSError),
        *(Boto3Error, BotoCoreError, ClientError),
    )


@dataclass(frozen=True, slots=True)
class Run:
    """One MLflow run. Plain data, so that a worker can log to the driver's run.

    An unreachable store only causes warnings; it never stops the training.
    """

    uri: str
    run_id: str

    def metrics(self, values: Mapping[str, float | None], *, step: int = 0) -> None:
        """Log numbers, ignoring None."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        known = {name: float(value) for name, value in values.items() if value is not None}
        self._log(metrics=[Metric(name, value, now, step) for name, value in known.items()])

    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings, nested ones by dotted names."""
        from mlflow.entities import Param

        self._log(params=[Param(k, str(v)[:_MAX_PARAM]) for k, v in flatten(values)])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._log(tags=[RunTag(name, value) for name, value in values.items()])

    def text(self, text: str, name: str) -> None:
        """Keep a text (a page, a JSON file) as an artifact."""
        with self._tolerant():
            _client(self.uri).log_text(self.run_id, text, name)

    def end(self, status: str) -> None:
        """Close the run; status is FINISHED or FAILED.

        Runs below it that are still open become KILLED: a trial that a search stops early has no
        time to close its own.
        """
        with self._tolerant():
            client = _client(self.uri)
            client.set_terminated(self.run_id, status)
            experiment = client.get_run(self.run_id).info.experiment_id
            below = f"tags.mlflow.parentRunId = '{self.run_id}' and attributes.status = 'RUNNING'"
            for child in client.search_runs([experiment], below):
                client.set_terminated(child.info.run_id, "KILLED")

    def _log(self, **values: Any) -> None:
        if time.monotonic() < _left_until.get(self.uri, 0.0):
            return
        with self._tolerant():
            _client(self.uri).log_batch(self.run_id, **values)

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        except _failures() as error:
            now, rest = time.monotonic(), 0.0
            if now - begun >= 1:
                rest = REST * (now - begun)
                _left_until[self.uri] = now + rest
            logger.warning(
                "MLflow at %s did not accept a log%s: %s",
                masked(self.uri),
                f"; sending none for {rest:.0f} s" if rest else "",
                masked(str(error)),
            )


@contextmanager
def run(name: str, settings: Mapping[str, Any], *, parent: Run | None = None) -> Iterator[Run]:
    """A new run for a block of code; it is marked as failed if the block raises.

    Args:
        settings: logged as parameters, nested ones by dotted names.
        parent: the run to nest this one under; its store is used too, since a trial of a search has
            its own working directory.

    Raises:
        TrackingError: there is no store, or it cannot be reached.
    """
    uri = parent.uri if parent else store()
    tags = {"mlflow.runName": name, "mlflow.parentRunId": parent.run_id if parent else ""}
    current = Run(uri, _begin(uri, {key: value for key, value in tags.items() if value}))
    current.params(settings)
    found = versions(*_PACKAGES)
    tags = {f"version.{name}": version for name, version in found.items() if name != "python"}
    current.tags({**tags, "machine": platform.platform(), "python": found["python"]})
    status = "FAILED"
    try:
        yield current
        status = "FINISHED"
    finally:
        current.end(status)


def _client(uri: str) -> mlflow.MlflowClient:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri)


def _begin(uri: str, tags: Mapping[str, str]) -> str:
    """Create a run -> its id."""
    try:
        with _alone(uri):
            client = _client(uri)  # creates the store
            experiment = _experiment(client, uri)
        return str(client.create_run(experiment, tags=dict(tags)).info.run_id)
    except _failures() as error:
        raise TrackingError(
            f"MLflow accepts no runs at {masked(uri)}: {masked(str(error))}; set "
            "MLFLOW_TRACKING_URI to a store that does"
        ) from error


def _experiment(client: mlflow.MlflowClient, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(EXPERIMENT):
        return str(found.experiment_id)
    # A server knows where to keep artifacts; for an SQLite file we have to say where.
    location = str(Path.cwd() / "mlruns") if uri.startswith(SQLITE) else None
    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))
    except MlflowException:
        if found := client.get_experiment_by_name(EXPERIMENT):  # another job was faster
            return str(found.experiment_id)
        raise


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """A lock between jobs on one machine: two that create an SQLite store at once corrupt it."""
    folder = Path(uri.removeprefix(SQLITE)).parent
    if not (uri.startswith(SQLITE) and folder.is_dir()):
        yield
        return
    directory = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
