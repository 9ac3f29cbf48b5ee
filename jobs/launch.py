"""How every job starts: settings, checks, then Ray."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import ray

from vsa_ray import config, datasets, storage
from vsa_ray.config import ConfigError
from vsa_ray.outputs import OutputError, Written

logger = logging.getLogger("jobs")

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # How often Ray Train looks at its workers, and so the least time that an epoch takes.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Workers import torch before they answer, which takes a busy machine more than Ray's minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}
"""Settings of Ray that a user's own environment may overrule."""


class JobConfig(Protocol):
    """The settings of a job."""

    def check(self) -> None:
        """Raise ValueError for what cannot work, before anything has been started."""


Job = TypeVar("Job", bound=JobConfig)


def launch(
    job: Callable[[Job], object],
    settings: type[Job],
    description: str | None,
    *,
    needs_ray: bool = True,
) -> None:
    """Run a job from the command line. A user's mistake ends in one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    try:
        parsed = config.parse(
            settings,
            description=description or "",
            argv=sys.argv[1:],
            prog=f"python -m jobs.{Path(sys.argv[0]).stem}",
        )
        parsed.check()
    except ValueError as error:
        _give_up(error)
    if needs_ray:
        start_ray()
    try:
        job(parsed)
    except (ConfigError, OutputError, storage.StorageError) as error:
        _give_up(error)


def _give_up(error: Exception) -> NoReturn:
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(2) from None


def start_ray() -> None:
    """Join the cluster of RAY_ADDRESS (`ray job submit` sets it), or start Ray on this machine."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says: tokens are on
    if not ray.is_initialized():
        logger.info("starting Ray")
        # Workers log to Ray's own files; what a user should see comes from the driver.
        ray.init(
            logging_level=logging.WARNING,
            log_to_driver=False,
            include_dashboard=None if "RAY_ADDRESS" in os.environ else False,
        )
    datasets.configure()


def require_table(uri: str, flag: str) -> None:
    """A table that a job reads has to be finished.

    Raises:
        ConfigError: it is missing, or the job that makes it has not ended.
    """
    if storage.committed(uri) is None:
        state = "is not finished" if storage.is_directory(uri) else "does not exist"
        raise ConfigError(f"{flag} {uri} {state}: run the job that makes it first")


def require_model(uri: str, flag: str) -> None:
    """A model that a job uses has to be trained.

    Raises:
        ConfigError: there is none.
    """
    if not storage.exists(storage.join(uri, "config.json")):
        raise ConfigError(f"{flag} {uri} holds no trained model: run the job that makes it first")


def log_written(uri: str, written: Written) -> None:
    """Say what a table holds, failures by kind."""
    failed = {kind: n for kind, n in written.by_status.items() if kind != "ok"}
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(failed.items()))
    logger.info("%s: %d rows, %s", uri, written.rows, f"failed: {kinds}" if failed else "all good")
