"""Ray Data for this driver: its settings, and what the cluster has to give."""

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
"""Nothing at all has moved for so long: the job stops instead of holding a cluster."""

IO_CPUS = 0.25
"""Logical CPUs of a task that mostly waits: loading images, writing."""

MISTAKE = "_mistake"
"""Column of what a user has to put right: of what a function raises Ray Data hands on the text
alone, in a traceback."""

READ_CPUS = 0.1
"""Of a task that reads parts. Not IO_CPUS, or Ray would fuse it with the loading of its images:
one task then loaded a thousand, one after the other."""

AUTOSCALER = "V2"
"""It asks for whole nodes. Ray 2.60's default asks for the tasks and actors that it wants, and of
the rest a plan gets whole CPUs only: of two, a plan whose actors take 0.9 was left 0.275, for which
loading starved writing."""

ACTORS_SHARE = 0.5
"""Of the logical CPUs that actors take: those of a node that is lost start again on the nodes that
are left, and must not take all that the tasks need there."""


def configure() -> None:
    """Settings of Ray Data for this driver."""
    os.environ.setdefault("RAY_DATA_CLUSTER_AUTOSCALER", AUTOSCALER)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # `make_table` shows its own
    context.execution_no_progress_timeout_s = STALLED_SECONDS
    context.raise_original_map_exception = True  # what went wrong, not that something did
    # A model needs its memory: that Ray was not told how much is nothing to warn of all the time.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # says: no bars
    # A corpus of fewer batches than actors is nothing to warn of.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors for")


class ForgetBlocks(ExecutionCallback):
    """Drops what Ray Data remembers of every block until a plan ends: a kilobyte each, which a
    driver that streams a corpus of millions cannot keep. Only `Dataset.stats` would read it."""

    def on_execution_step(self, executor: Any) -> None:
        for operator in executor._topology:
            getattr(operator, "_output_blocks_stats", []).clear()


def model_workers(actors: int = 0, *, stages: int = 1) -> dict[str, Any]:
    """What a stage with a model gets of this cluster: an actor a GPU, or else one a CPU.

    Logical CPUs only order who may start: some are always left to the tasks that feed the actors,
    or nothing would ever move.

    Args:
        actors: how many, instead.
        stages: of one plan that hold a model; they share GPUs and CPUs.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if gpus:
        return {"actors": actors or gpus, "num_cpus": 1.0 / stages, "num_gpus": 1.0 / stages}
    actors = min(actors or cpus, cpus)
    return {"actors": actors, "num_cpus": min(1.0, ACTORS_SHARE * cpus / actors) / stages}


def require_shared(uri: str) -> None:
    """A folder that has been claimed has to be the same one on every node of the cluster.

    Raises:
        OutputError: on a node there is no such folder, or another one.
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
                f"{uri} is a folder that node {node['NodeManagerAddress']} does not have, so what "
                "is made there would be lost; choose a place that all nodes share, or s3://"
            )


@ray.remote
def _see(file: str) -> bool:
    return storage.exists(file)


def each(function: Callable[[Any], dict[str, Any]], items: list[Any]) -> Iterator[dict[str, Any]]:
    """`function(item)` of every item, many at once, anywhere; what they return, in any order.

    Raises:
        UserError: a function has raised one.
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
    """`function(rows, *args)` of all rows, in tasks; Ray stores `args` once."""
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
