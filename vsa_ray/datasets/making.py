"""Run inputs through stages into an output table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.data.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vsa_ray import storage
from vsa_ray.datasets.cluster import IO_CPUS, READ_CPUS, ForgetBlocks, mapped, require_shared
from vsa_ray.datasets.guard import Counts, Key, Mapper, guarded
from vsa_ray.datasets.progress import Log, Progress
from vsa_ray.datasets.slices import pack, runs, unpack
from vsa_ray.errors import UserError, user_error_in
from vsa_ray.inputs import Columns, Inputs, Part, slices
from vsa_ray.listing import PART_ROWS
from vsa_ray.outputs import OutputError, TableOutput
from vsa_ray.spans import Span, pending
from vsa_ray.table_files import Written
from vsa_ray.versions import versions

FILE_ROWS = 64
"""Maximum rows per file, for contiguous rows: the most a kill can lose besides work in progress."""

READ_TASKS = 4096
"""Maximum read tasks of a plan: Ray keeps a record of each."""

SURE_ROWS = 200
"""Rows before a high error rate stops the job: with fewer it may be chance."""

PACKAGES = ("ray", "torch", "torchvision", "timm", "onnxruntime", "pillow", "pyarrow")

_WRITTEN = pa.schema({"rows": pa.int64(), "by_status": pa.map_(pa.string(), pa.int64())})


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A mapper class of `vsa_ray` (table in, table out), and the resources of its workers."""

    mapper: Callable[..., Mapper]
    """Called with `args`, once per worker."""

    args: tuple[Any, ...] = ()

    actors: int = 0
    """Number of actors, which keep their mapper; 0 runs as many tasks as fit."""

    num_cpus: float = IO_CPUS
    num_gpus: float = 0

    @property
    def name(self) -> str:
        return getattr(self.mapper, "__name__", "stage")


def make_table(
    inputs: Inputs,
    stages: Sequence[Stage],
    output: TableOutput,
    *,
    batch_size: int,
    rows: int | None = None,
    log: Log | None = None,
) -> Written:
    """Run `stages` over all rows of the input and commit the result.

    Only processes rows that no file of the output covers yet; `output` must be begun.

    Args:
        batch_size: rows that each stage gets at once.
        rows: rows of the finished table, if an input row does not make exactly one.
        log: receives the speed and the failures by reason, twice a minute.

    Raises:
        OutputError: a node does not see the output, rows are missing at the end, too many failed,
            or there is no more progress.
        StorageOutage: storage does not respond.
    """
    parts = inputs.rows
    output = output.take_turn()
    require_shared(output.uri)
    done = output.done()
    left, errors = pending(done, parts), _Errors(output, list(done.values()))
    with Progress(output.uri, sum(parts), sum(span.rows for span in done), log) as progress:
        if left:
            for made in _run(inputs, left, stages, output, batch_size):
                progress.add(made["rows"], dict(made["by_status"]))
                if progress.rows >= SURE_ROWS:
                    errors.check(Written(progress.rows, dict(progress.by_status)))
    summary = {
        "rows_of_last_run": progress.rows,
        "seconds_of_last_run": round(progress.seconds, 1),
        "images_per_second": round(progress.rows / max(progress.seconds, 1e-3), 2),
        "made_from": output.made_from,
        "versions": versions(*PACKAGES),
    }
    return output.finish(parts, rows=rows, summary=summary)


class _Errors:
    """Checks whether too many rows have failed, including those of earlier starts."""

    def __init__(self, output: TableOutput, files: list[str]) -> None:
        self._output, self._files = output, files
        self._before: Written | None = None

    def check(self, made: Written) -> None:
        """Raise OutputError exactly when an uninterrupted job would."""
        if self._before is None and self._output.too_many_failed(made):
            self._before = self._output.count(self._files)  # opens files, so only when needed
        self._output.check_errors(made + self._before if self._before else made)


def _run(
    inputs: Inputs,
    left: Mapping[int, list[Span]],
    stages: Sequence[Stage],
    output: TableOutput,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """Rows of _WRITTEN, one per file."""
    tally = _tally()
    groups = _groups(inputs.parts, left)
    plan: ray.data.Dataset = ray.data.from_items(
        groups, override_num_blocks=min(len(groups), READ_TASKS)
    )
    plan.context.target_max_block_size = 1  # byte, which makes every slice a block
    plan.context.custom_execution_callback_classes.append(ForgetBlocks)
    plan = mapped(plan, _read, inputs.columns, batch_size, tally, batch_size=1, num_cpus=READ_CPUS)
    for stage in stages:
        plan = _add(plan, stage, tally)
    together = max(1, FILE_ROWS // batch_size)
    written = mapped(plan, _write, output, tally, batch_size=together, num_cpus=IO_CPUS)
    # Resources reserved by a plan stay reserved for three minutes after its driver is killed,
    # unless a plan of the same name takes them over, as a resumed job does.
    name = storage.absolute(output.uri).encode()
    written._set_uuid(hashlib.blake2s(name, digest_size=8).hexdigest())
    try:
        yield from written.iter_rows()
    except ray.data.exceptions.ExecutionTimeoutError as error:
        raise OutputError(
            f"{output.uri}: no progress for minutes. Does the cluster have the resources that the "
            f"workers request? Nothing is lost: run the same command again.\n{error}"
        ) from error
    except Exception as error:
        if mistake := tally.mistake() or user_error_in(error):
            raise mistake from error
        raise
    finally:
        tally.stop()


def _groups(parts: Sequence[Part], left: Mapping[int, list[Span]]) -> list[dict[str, Any]]:
    """What is left of the input, in items of about PART_ROWS rows."""
    groups: list[list[dict[str, Any]]] = []
    rows = PART_ROWS
    for number, gaps in left.items():
        if rows >= PART_ROWS:
            groups.append([])
            rows = 0
        part = parts[number]
        groups[-1].append(
            {
                "uri": part.uri,
                "rows": part.rows,
                "row_group": part.row_group,
                "start": part.start,
                "gaps": [list(gap) for gap in gaps],
            }
        )
        rows += sum(gap.rows for gap in gaps)
    return [{"parts": group} for group in groups]


def _add(plan: ray.data.Dataset, stage: Stage, tally: _Tally) -> ray.data.Dataset:
    shared = ray.put(stage)
    if not stage.actors:
        return mapped(plan, _call, shared, tally, batch_size=1, num_cpus=stage.num_cpus)
    options: dict[str, Any] = {"num_gpus": stage.num_gpus} if stage.num_gpus else {}
    # Ray fuses stages with equal resources; the actor that holds a model would then also do the
    # work of the tasks before it, loading images.
    cpus = stage.num_cpus if stage.num_cpus != IO_CPUS else 0.9 * IO_CPUS
    return plan.map_batches(
        type(stage.name, (_Worker,), {}),  # the name that Ray's logs and dashboard show
        fn_constructor_args=(shared, tally),
        compute=ray.data.ActorPoolStrategy(size=stage.actors),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=cpus,
        **options,
    )


def _read(groups: pa.Table, columns: Columns, size: int, tally: _Tally) -> Iterator[pa.Table]:
    with _reporting(tally):
        for part in (part for group in groups["parts"].to_pylist() for part in group):
            gaps = [Span(*gap) for gap in part.pop("gaps")]
            for span, table in slices(Part(**part), columns, gaps, size):
                yield pack(span, table)


class _Worker:
    """Holds a model; called with blocks of slices."""

    def __init__(self, shared: ray.ObjectRef[Stage], tally: _Tally) -> None:
        self._tally = tally
        self._mistake: UserError | None = None
        try:
            self._name, self._mapper = _built(shared)
        except UserError as error:
            self._mistake = error  # of a constructor's error Ray only passes on the text

    def __call__(self, block: pa.Table) -> pa.Table:
        with _reporting(self._tally):
            if self._mistake:
                raise self._mistake
            return pa.concat_tables(
                pack(span, guarded(self._mapper, self._name, self._tally, span, table))
                for span, table in unpack(block)
            )


def _call(block: pa.Table, shared: ray.ObjectRef[Stage], tally: _Tally) -> pa.Table:
    return _Worker(shared, tally)(block)


@lru_cache(maxsize=8)
def _built(shared: ray.ObjectRef[Stage]) -> tuple[str, Mapper]:
    """A stage's name and mapper, built once per process."""
    stage = ray.get(shared)
    return stage.name, stage.mapper(*stage.args)


def _write(block: pa.Table, output: TableOutput, tally: _Tally) -> pa.Table:
    made = []
    with _reporting(tally):
        for span, table in runs(block):
            written = output.write(span, table)
            made.append({"rows": span.rows, "by_status": list(written.by_status.items())})
    return pa.Table.from_pylist(made, schema=_WRITTEN)


class _Tally:
    """Client of the tally of all workers, an actor on the driver's node."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, key: Key) -> int:
        return int(ray.get(self._actor.begin.remote(key)))

    def record(self, mistake: UserError) -> None:
        ray.get(self._actor.record.remote(mistake))

    def mistake(self) -> UserError | None:
        mistake: UserError | None = ray.get(self._actor.recorded.remote())
        return mistake

    def stop(self) -> None:
        ray.kill(self._actor)  # Ray would keep it until the driver ends

    def end(self, key: Key) -> None:
        # Not awaited: calls of one process stay in order, so its next `begin` comes later.
        self._actor.end.remote(key)


@contextmanager
def _reporting(tally: _Tally) -> Iterator[None]:
    """Report a UserError to the driver: when a function raises, Ray Data only passes its text."""
    try:
        yield
    except UserError as mistake:
        tally.record(mistake)
        raise


def _tally() -> _Tally:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(Counts).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    )
    return _Tally(actor.remote())
