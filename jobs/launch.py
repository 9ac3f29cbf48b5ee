"""How every job starts (settings, checks, Ray) and ends."""

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
from vsa_ray.errors import user_error_in
from vsa_ray.table_files import Written

logger = logging.getLogger("jobs")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

MAKERS = {"AlignmentModel": "jobs.train_alignment", "MultimodalRNN": "jobs.train_mrnn"}
"""Model classes, and the job that trains each."""


class JobConfig(Protocol):
    """The settings of a job."""

    def check(self) -> None:
        """Raise UserError if the job cannot work, before anything is started."""


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
    """Run a job from the command line; `recipe` says how it reads config files of several jobs.

    A job that is already `finished` skips its checks, which load libraries for seconds, and does
    not start Ray: it only reports what is there.

    User errors end in one line and exit code 2, Ctrl-C in one line and 130, all other errors in a
    traceback and 1.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    again = "run the same command again"
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
            again += " with --resume"
        if not finished(parsed):
            parsed.check()
            if needs_ray:
                start_ray()
        _run(job, parsed)
    except KeyboardInterrupt:
        _give_up(f"stopped; {again} to resume", INTERRUPTED)
    except Exception as error:
        mistake = user_error_in(error)
        if mistake is None:
            raise
        _give_up(f"error: {mistake}", 2)


@contextmanager
def _readers_may_leave() -> Iterator[None]:
    """`--help | head` ends without a traceback."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The rest would be flushed again at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _check_secrets(parsed: Any) -> None:
    """Refuse URIs with credentials before anything logs the settings."""
    for _, value in config.flatten(asdict(parsed)):
        if isinstance(value, str):
            storage.check_secrets(value)


def _check_given(parsed: Any) -> None:
    """Refuse "", which an unset shell variable gives and would mean the working directory."""
    for one in fields(parsed):
        needed = one.default is MISSING and one.default_factory is MISSING
        if needed and getattr(parsed, one.name) == "":
            raise ConfigError(f"--{one.name.replace('_', '-')} is empty; give a value")


def _run(job: Callable[[Job], object], parsed: Job) -> None:
    try:
        job(parsed)
    except SystemExit as error:
        if error.code:
            raise
        raise KeyboardInterrupt from error  # Ray Train turns Ctrl-C into sys.exit(0)


def _give_up(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(code) from None


def start_ray() -> None:
    """Join a cluster, or else start Ray on this machine.

    The cluster is that of RAY_ADDRESS (`ray job submit` sets it), or, if that is not set, one
    started on this machine with `ray start`.
    """
    # It logs that tokens are enabled.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if not ray.is_initialized():
        logger.info("starting Ray")
        # Workers log to Ray's own files; what the user should see comes from the driver.
        ray.init(
            logging_level=logging.WARNING,
            log_to_driver=False,
            include_dashboard=None if "RAY_ADDRESS" in os.environ else False,
        )
    datasets.configure()


def require_directory(uri: str, flag: str) -> None:
    """Check that an input directory exists.

    Raises:
        ConfigError: it is missing, or is a file.
    """
    if not storage.exists(uri):
        raise ConfigError(f"{flag} {uri} does not exist")
    if not storage.is_directory(uri):
        raise ConfigError(f"{flag} {uri} is a file; give the directory that holds it")


def require_table(uri: str, flag: str) -> None:
    """Check that an input table is finished.

    Raises:
        ConfigError: it is missing, or the job that makes it has not finished.
    """
    if not storage.exists(uri):
        raise ConfigError(f"{flag} {uri} does not exist: run the job that makes it first")
    if not storage.is_directory(uri):
        raise ConfigError(f"{flag} {uri} is a file; a table is a directory")
    if storage.committed(uri) is None:
        raise ConfigError(f"{flag} {uri} is not finished: run the job that makes it first")


def require_split(uri: str, split: str, flag: str) -> None:
    """Check that a `sentences` table has sentences of a split; training needs train and dev.

    Raises:
        ConfigError: it has none.
    """
    table = storage.read_table(uri, schema.SENTENCES, columns=["split"])
    check_splits(table, [split], f"{flag} {uri}")


def check_splits(sentences: pa.Table, splits: Sequence[str], where: str) -> None:
    """Raise ConfigError, with advice, if one of the splits has no sentences."""
    counted = sentences["split"].value_counts().to_pylist()
    has = {row["values"]: f"{row['counts']:,} {row['values'] or 'in no split'}" for row in counted}
    for split in splits:
        if split not in has:
            raise ConfigError(
                f"{where} has no sentence of the {split} split (it has "
                f"{', '.join(has.values()) or 'none at all'}); add split lists to the corpus, or "
                "draw splits with --reader.dev-share 0.1 --reader.test-share 0.1"
            )


def require_described(regions: str, split: str, described: pa.Table) -> None:
    """Check that a `regions` table has a usable image with a text in a split: in train to learn
    from, and in dev to evaluate on, which a training would only notice after an epoch.

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
            f"--regions {regions} has no usable image of the {split} split with a text to learn "
            f"from ({len(images)} images, texts for {len(described)}); is it from the same corpus, "
            "or have its images failed (column `error`)?"
        )


def require_model(uri: str, flag: str, kind: str, regions: str = "") -> None:
    """Check that a model is trained, of the right class, and takes the features it will be given.

    Args:
        kind: name of its class.
        regions: a table whose features it will be given.

    Raises:
        ConfigError: there is no such model, or it does not fit.
    """
    if not storage.exists(storage.join(uri, "config.json")):
        raise ConfigError(f"{flag} {uri} holds no trained model: run the job that makes it first")
    description = storage.read_json(storage.join(uri, "config.json"))
    found = description.get("model") if isinstance(description, dict) else None
    if found != kind:
        raise ConfigError(
            f"{flag} {uri} holds {found or 'something else'}, but {kind} is needed; give an output "
            f"of {MAKERS[kind]}"
        )
    width, taken = _feature_dim(regions) if regions else None, description.get("feature_dim")
    if taken and (description.get("config") or {}).get("detections"):
        taken -= DETECTION_DIM
    if width is not None and width != taken:
        raise ConfigError(
            f"{flag} {uri} takes features of width {taken}, but those of {regions} have width "
            f"{width}; give the regions it was trained on, or others made with the same backbone "
            "and maps"
        )


def _feature_dim(regions: str) -> int | None:
    """Width of the features of a `regions` table; None if no image has a region."""
    columns = ["features", "status"]
    for block in storage.read_blocks(regions, schema.REGIONS, columns=columns):
        good = block.filter(pc.equal(block["status"], "ok"))
        if len(good):
            return len(good["features"][0].as_py()[0])
    return None


def log_written(uri: str, written: Written) -> None:
    """Log what a table holds, with failures by kind."""
    failed = {kind: n for kind, n in written.by_status.items() if kind != "ok"}
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(failed.items()))
    logger.info("%s: %d rows, %s", uri, written.rows, f"failed: {kinds}" if failed else "all good")
