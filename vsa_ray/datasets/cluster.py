"""Ray Data settings for this driver, and how a job uses the cluster's resources."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vsa_ray import storage
from vsa_ray.errors import UserError
from vsa_ray.outputs import JOB, OutputError

STALLED_SECONDS = 600
"""If nothing has progressed for this long, the job stops instead of holding the cluster."""

IO_CPUS = 0.25
"""Logical CPUs of a task that mostly waits for I/O: loading images, writing."""

MISTAKE = "_mistake"
"""Column that carries a UserError's text: when a function raises, Ray Data only passes on the text,
within a traceback."""

READ_CPUS = 0.1
"""Logical CPUs of a task that reads parts. Different from IO_CPUS, or Ray would fuse it with image
loading, and one task would load a thousand images one after another."""

AUTOSCALER = "V2"
"""Requests whole nodes. Ray 2.60's default requests the tasks and actors it wants, and leaves a
plan only whole CPUs of the rest: of two, a plan whose actors take 0.9 was left 0.275, for which
loading starved writing."""

ACTORS_SHARE = 0.5
"""Share of the logical CPUs that actors may take: those of a lost node restart on the remaining
nodes, and must leave CPUs for the tasks there."""


def configure() -> None:
    """Settings of Ray Data for this driver."""
    os.environ.setdefault("RAY_DATA_CLUSTER_AUTOSCALER", AUTOSCALER)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # `make_table` shows its own
    context.execution_no_progress_timeout_s = STALLED_SECONDS
    context.raise_original_map_exception = True  # not one that only says that something failed
    # Ray would keep warning that models use memory it was not told about.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns that progress bars are disabled.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # A corpus with fewer batches than actors is fine.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors for")


class ForgetBlocks(ExecutionCallback):
    """Drops the statistics that Ray Data keeps for every block until a plan ends. They take a
    kilobyte each, too much for a driver that streams millions, and only `Dataset.stats` reads
    them."""

    def on_execution_step(self, executor: Any) -> None:
        for operator in executor._topology:
            getattr(operator, "_output_blocks_stats", []).clear()


def model_workers(actors: int = 0, *, stages: int = 1) -> dict[str, Any]:
    """Resources for a stage with a model: one actor per GPU, or else one per CPU.

    Logical CPUs only control what Ray starts: some must be left for the tasks that feed the actors,
    or the plan would deadlock.

    Args:
        actors: number of actors, instead of the default.
        stages: number of stages in the plan that hold a model; they share GPUs and CPUs.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if gpus:
        return {"actors": actors or gpus, "num_cpus": 1.0 / stages, "num_gpus": 1.0 / stages}
    actors = min(actors or cpus, cpus)
    return {"actors": actors, "num_cpus": min(1.0, ACTORS_SHARE * cpus / actors) / stages}


def require_shared(uri: str) -> None:
    """Check that an output folder, once begun, is the same folder on every node of the cluster.

    Raises:
        OutputError: a node has no such folder, or a different one.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) < 2 or not storage.is_local(uri):
        return
    job = storage.join(storage.absolute(uri), JOB)
    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        asked.append(_see.options(num_cpus=0, scheduling_strategy=there).remote(job))
    for node, answer in zip(nodes, asked, strict=True):
        if not ray.get(answer):
            raise OutputError(
                f"{uri} is a folder that node {node['NodeManagerAddress']} does not have, so its "
                "output would be lost; choose a folder that all nodes share, or s3://"
            )


@ray.remote
def _see(file: str) -> bool:
    return storage.exists(file)


def each(function: Callable[[Any], dict[str, Any]], items: list[Any]) -> Iterator[dict[str, Any]]:
    """`function(item)` for every item, in parallel on the cluster; results come in any order.

    Raises:
        UserError: a call has raised one.
    """
    numbers = ray.data.range(len(items), override_num_blocks=max(1, len(items)))
    for row in mapped(numbers, _each, function, items, num_cpus=IO_CPUS).iter_rows():
        if MISTAKE in row:
            raise UserError(row[MISTAKE])
        yield row


def mapped(
    dataset: ray.data.Dataset,
    function: Callable[..., pa.Table | Iterator[pa.Table]],
    *args: Any,
    batch_size: int | None = None,
    num_cpus: float,
) -> ray.data.Dataset:
    """`function(rows, *args)` for all rows, in tasks; Ray stores `args` once."""
    return dataset.map_batches(
        function,
        fn_args=args,
        batch_size=batch_size,
        batch_format="pyarrow",
        num_cpus=num_cpus,
    )


def _each(numbers: pa.Table, function: Callable[[Any], Any], items: list[Any]) -> pa.Table:
    try:
        return pa.Table.from_pylist([function(items[i]) for i in numbers["id"].to_pylist()])
    except UserError as mistake:
        return pa.table({MISTAKE: [str(mistake)]})
