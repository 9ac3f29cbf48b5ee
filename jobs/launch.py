"""How every job starts: settings, checks, then Ray; and how it ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray

from vsa_ray import config, datasets, schema, storage, texts
from vsa_ray.batches import DETECTION_DIM
from vsa_ray.config import ConfigError, Recipe
from vsa_ray.errors import mistake_behind
from vsa_ray.table_files import Written

logger = logging.getLogger("jobs")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

MAKERS = {"AlignmentModel": "jobs.train_alignment", "MultimodalRNN": "jobs.train_mrnn"}
"""Kinds of models, and the job that makes each."""


class JobConfig(Protocol):
    """The settings of a job."""

    def check(self) -> None:
        """Raise UserError for what cannot work, before anything has been started."""


Job = TypeVar("Job", bound=JobConfig)


def launch(
    job: Callable[[Job], object],
    settings: type[Job],
    description: str | None,
    *,
    needs_ray: bool = True,
    finished: Callable[[Job], bool] = lambda _: False,
    recipe: Recipe | None = None,
) -> None:
    """Run a job from the command line; `recipe` says how it reads files of several jobs.

    One that has `finished` before neither checks its settings again, which loads libraries for
    seconds, nor starts Ray: it only says what is there.

    A user's mistake ends in one line and exit code 2, Ctrl-C in one line and 130, anything else
    that goes wrong in a traceback and 1.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    again = "start the same command again"
    try:
        with _readers_may_leave():
            parsed = config.parse(
                settings,
                description=description or "",
                argv=sys.argv[1:],
                prog=f"python -m jobs.{Path(sys.argv[0]).stem}",
                recipe=recipe,
            )
        _check_secrets(parsed)
        _check_given(parsed)
        if getattr(parsed, "resume", True) is False:
            again += " with --resume True"
        if not finished(parsed):
            parsed.check()
            if needs_ray:
                start_ray()
        _run(job, parsed)
    except KeyboardInterrupt:
        _give_up(f"stopped; {again} to go on", INTERRUPTED)
    except Exception as error:
        mistake = mistake_behind(error)
        if mistake is None:
            raise
        _give_up(f"error: {mistake}", 2)


@contextmanager
def _readers_may_leave() -> Iterator[None]:
    """`--help | head` ends in no traceback."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left would be flushed once more at the end, and fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _check_secrets(parsed: Any) -> None:
    """Before anything logs the settings."""
    for _, value in config.flatten(asdict(parsed)):
        if isinstance(value, str):
            storage.check_secrets(value)


def _check_given(parsed: Any) -> None:
    """A variable of the shell that is not set leaves "", which would mean the working directory."""
    for one in fields(parsed):
        needed = one.default is MISSING and one.default_factory is MISSING
        if needed and getattr(parsed, one.name) == "":
            raise ConfigError(f"--{one.name.replace('_', '-')} is empty; give a value")


def _run(job: Callable[[Job], object], parsed: Job) -> None:
    try:
        job(parsed)
    except SystemExit as error:  # what Ray Train makes of Ctrl-C
        raise KeyboardInterrupt from error


def _give_up(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(code) from None


def start_ray() -> None:
    """Join a cluster, or else start Ray on this machine.

    The cluster is that of RAY_ADDRESS (`ray job submit` sets it), or without it the one that
    `ray start` has started on this machine.
    """
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


def require_directory(uri: str, flag: str) -> None:
    """A directory that a job reads has to be there.

    Raises:
        ConfigError: it is missing, or a file.
    """
    if not storage.exists(uri):
        raise ConfigError(f"{flag} {uri} does not exist")
    if not storage.is_directory(uri):
        raise ConfigError(f"{flag} {uri} is a file; give the directory that holds it")


def require_table(uri: str, flag: str) -> None:
    """A table that a job reads has to be finished.

    Raises:
        ConfigError: it is missing, or the job that makes it has not ended.
    """
    if not storage.exists(uri):
        raise ConfigError(f"{flag} {uri} does not exist: run the job that makes it first")
    if not storage.is_directory(uri):
        raise ConfigError(f"{flag} {uri} is a file; a table is a directory")
    if storage.committed(uri) is None:
        raise ConfigError(f"{flag} {uri} is not finished: run the job that makes it first")


def require_split(uri: str, split: str, flag: str) -> None:
    """A `sentences` table has to have some of a split, as training needs of train and dev.

    Raises:
        ConfigError: it has none.
    """
    table = storage.read_table(uri, schema.SENTENCES, columns=["split"])
    check_splits(table, [split], f"{flag} {uri}")


def check_splits(sentences: pa.Table, splits: Sequence[str], where: str) -> None:
    """Raise ConfigError, with what can be done, where one of the splits has no sentence."""
    counted = sentences["split"].value_counts().to_pylist()
    has = {row["values"]: f"{row['counts']:,} {row['values'] or 'in no split'}" for row in counted}
    for split in splits:
        if split not in has:
            raise ConfigError(
                f"{where} has no sentence of the {split} split (it has "
                f"{', '.join(has.values()) or 'none at all'}); give the corpus split lists, or "
                "read it with --reader.dev-share 0.1 --reader.test-share 0.1, which draw splits"
            )


def require_described(regions: str, split: str, described: pa.Table) -> None:
    """A `regions` table has to have a good image of a split with a text, of train to learn from and
    of dev to measure on: the latter a training would find out after an epoch.

    Args:
        described: the TEXTS of that split.

    Raises:
        ConfigError: it has none.
        StorageError: it is another table.
    """
    columns = ["image_id", "status"]
    images = storage.read_table(regions, schema.REGIONS, columns=columns, split=split)
    if not len(texts.attach(images, described)):
        raise ConfigError(
            f"--regions {regions} has no good image of the {split} split with a text to learn "
            f"from ({len(images)} images, texts of {len(described)}); is it of the same corpus, or "
            "have its images failed (column `error`)?"
        )


def require_model(uri: str, flag: str, kind: str, regions: str = "") -> None:
    """A model that a job uses has to be trained, of the right kind, and on such features.

    Args:
        kind: name of its class.
        regions: a table whose features it is to take.

    Raises:
        ConfigError: there is none, or another one.
    """
    if not storage.exists(storage.join(uri, "config.json")):
        raise ConfigError(f"{flag} {uri} holds no trained model: run the job that makes it first")
    description = storage.read_json(storage.join(uri, "config.json"))
    found = description.get("model") if isinstance(description, dict) else None
    if found != kind:
        raise ConfigError(
            f"{flag} {uri} holds {found or 'another thing'}, but {kind} is needed; give what "
            f"{MAKERS[kind]} makes"
        )
    width, taken = _feature_dim(regions) if regions else None, description.get("feature_dim")
    if taken and (description.get("config") or {}).get("detections"):
        taken -= DETECTION_DIM
    if width is not None and width != taken:
        raise ConfigError(
            f"{flag} {uri} takes features of {taken} numbers, but those "
            f"of {regions} have {width}; give the regions that it was trained on, or others made "
            "with the same backbone"
        )


def _feature_dim(regions: str) -> int | None:
    """Numbers in a feature of a `regions` table; None where no image has a region."""
    columns = ["features", "status"]
    for block in storage.read_blocks(regions, schema.REGIONS, columns=columns):
        good = block.filter(pc.equal(block["status"], "ok"))
        if len(good):
            return len(good["features"][0].as_py()[0])
    return None


def log_written(uri: str, written: Written) -> None:
    """Say what a table holds, failures by kind."""
    failed = {kind: n for kind, n in written.by_status.items() if kind != "ok"}
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(failed.items()))
    logger.info("%s: %d rows, %s", uri, written.rows, f"failed: {kinds}" if failed else "all good")
