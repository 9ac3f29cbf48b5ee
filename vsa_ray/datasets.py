"""Stages wired into Ray Data. The only door to `ray.data`.

    source ─▶ leave out what is done ─▶ stages (tasks, or actors that hold a model) ─▶ write

Blocks stream through all of it at once. Writing is the last stage: each block becomes one file
(outputs.py), and a row about it reaches the driver, which shows progress.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from tqdm import tqdm

from vsa_ray import storage
from vsa_ray.outputs import TableOutput, Written
from vsa_ray.texts import attach

logger = logging.getLogger(__name__)

IO_CPUS = 0.25
"""Logical CPUs of a task that mostly waits: reading, decoding, writing."""

BLOCK_ROWS = 64
"""Rows of a block, and so of a file: what a kill can cost."""

IN_MEMORY = 0.25
"""Share of the cluster's object store that the images of a training may take to stay in it."""

Mapper = Callable[[pa.Table], pa.Table]

_WRITTEN = pa.schema({"rows": pa.int64(), "by_status": pa.map_(pa.string(), pa.int64())})


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A mapper class of `vsa_ray` (table in, table out), and what each of its workers needs."""

    mapper: Callable[..., Mapper]
    """Called with `args`, once a worker."""

    args: tuple[Any, ...]
    batch_size: int
    """Rows a call."""

    actors: int = 0
    """Workers that stay and hold a model; 0 runs tasks, as many as fit."""

    num_cpus: float = IO_CPUS
    num_gpus: float = 0


def configure() -> None:
    """Settings of Ray Data for this driver."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # `make_table` shows its own
    # A worker that dies again and again must not burn half an hour (Ray's default) of a cluster.
    context.execution_no_progress_timeout_s = 300
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # says: no bars


def model_workers(actors: int = 0, *, stages: int = 1) -> dict[str, Any]:
    """What a stage with a model gets of this cluster: an actor a GPU, or else one a CPU.

    Logical CPUs only order who may start: one is always left to the tasks that feed the actors
    (Ray's own listing task asks for a whole one), or nothing would ever move.

    Args:
        actors: how many, instead.
        stages: of one plan that hold a model; they share GPUs and CPUs.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if gpus:
        return {"actors": actors or gpus, "num_cpus": 1.0 / stages, "num_gpus": 1.0 / stages}
    actors = min(actors or cpus, cpus)
    return {"actors": actors, "num_cpus": min(1.0, (cpus - 1) / actors) / stages}


def read(uri: str, columns: Sequence[str] | None = None) -> ray.data.Dataset:
    """The rows of a table of ours, or some of their columns.

    Raises:
        storage.StorageError: there is no such table.
    """
    files = [file for file in storage.list_files(uri) if file.endswith(".parquet")]
    if not files:
        raise storage.StorageError(f"{uri}: no such table")
    filesystem, _ = storage.resolve(uri)
    return ray.data.read_parquet(
        [storage.resolve(file)[1] for file in files],
        filesystem=filesystem,
        columns=list(columns) if columns else None,
        num_cpus=IO_CPUS,
    )


def from_table(table: pa.Table) -> ray.data.Dataset:
    """The rows of a table in memory."""
    return ray.data.from_arrow(table)


def with_texts(
    regions: str, texts: pa.Table, columns: Sequence[str] | None = None
) -> ray.data.Dataset:
    """The rows of the table `regions` that have texts, and these; see texts.attach."""
    return _map(read(regions, columns), attach, texts)


def training_images(regions: str, texts: pa.Table) -> ray.data.Dataset:
    """Features and texts, an image a row, to be read once an epoch.

    A corpus that takes a small part of the object store stays there, since starting to read takes
    seconds, every epoch. A larger one is streamed from Parquet every time.
    """
    images = with_texts(regions, texts, ["image_id", "features", "status"])
    images.context.execution_options.preserve_order = True  # the same batches from the same seed
    memory: float = ray.cluster_resources()["object_store_memory"]  # type: ignore[no-untyped-call]
    if storage.size(regions) < IN_MEMORY * memory:
        kept: ray.data.Dataset = images.materialize()
        return kept
    return images


def make_table(
    source: ray.data.Dataset, stages: Sequence[Stage], output: TableOutput, *, rows: int
) -> Written:
    """Run `stages` over `source` and commit what they make; goes on where it was killed.

    Args:
        source: rows with an `image_id`, an image's in one row.
        rows: how many rows the finished table has to have.

    Raises:
        OutputError: the output belongs to another job, or rows are missing at the end.
    """
    if finished := output.finished():
        logger.info("%s is there already: %s", output.uri, finished)
        return finished
    output.begin()
    done = output.done()
    if len(done):
        logger.info("%s: %d images are done, going on with the others", output.uri, len(done))
        source = _map(source, _leave_out, done)
    blocks = source.repartition(target_num_rows_per_block=BLOCK_ROWS)
    for stage in stages:
        blocks = _add(blocks, stage)
    _watch(_map(blocks, _write, output), desc=output.uri, rows=rows - output.rows())
    return output.finish(rows)


def _watch(written: ray.data.Dataset, *, desc: str, rows: int) -> None:
    """Run a plan that ends in `_write`, and show what it writes."""
    by_status: Counter[str] = Counter()
    with tqdm(total=rows, unit="row", desc=desc) as progress:
        for row in written.iter_rows():
            by_status.update(dict(row["by_status"]))
            progress.update(row["rows"])
            progress.set_postfix({kind: n for kind, n in by_status.items() if kind != "ok"})


def _add(blocks: ray.data.Dataset, stage: Stage) -> ray.data.Dataset:
    options: dict[str, Any] = {"batch_size": stage.batch_size, "num_cpus": stage.num_cpus}
    if not stage.actors:
        return _map(blocks, _call, stage.mapper, stage.args, **options)
    if stage.num_gpus:
        options["num_gpus"] = stage.num_gpus
    return blocks.map_batches(
        stage.mapper,
        fn_constructor_args=stage.args,
        compute=ray.data.ActorPoolStrategy(size=stage.actors),
        batch_format="pyarrow",
        **options,
    )


def _map(
    dataset: ray.data.Dataset, function: Callable[..., pa.Table], *args: Any, **options: Any
) -> ray.data.Dataset:
    """`function(block, *args)` on every block; Ray stores `args` once, for all tasks."""
    options = {"batch_size": None, "num_cpus": IO_CPUS, **options}
    return dataset.map_batches(function, fn_args=args, batch_format="pyarrow", **options)


def _call(table: pa.Table, mapper: Callable[..., Mapper], args: tuple[Any, ...]) -> pa.Table:
    return _built(mapper, args)(table)


@lru_cache(maxsize=8)
def _built(mapper: Callable[..., Mapper], args: tuple[Any, ...]) -> Mapper:
    """Built once a process; configs are frozen, so they can be a key."""
    return mapper(*args)


def _leave_out(table: pa.Table, done: pa.Array) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["image_id"], value_set=done)))


def _write(table: pa.Table, output: TableOutput) -> pa.Table:
    if not len(table):
        return _WRITTEN.empty_table()
    written = output.write(table)
    row = {"rows": written.rows, "by_status": list(written.by_status.items())}
    return pa.Table.from_pylist([row], schema=_WRITTEN)
