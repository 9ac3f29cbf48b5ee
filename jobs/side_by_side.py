"""Run parts of a job concurrently on Ray, each in its own process."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import torch
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vsa_ray import datasets, machine, messages, storage

logger = logging.getLogger("jobs")

MOST = 4
"""Default maximum of concurrent parts: each training holds the features of its images."""

Result = TypeVar("Result")


def places(workers: int = 1) -> int:
    """How many parts this cluster can run concurrently: one per GPU, or per CPU if it has no GPU.

    Args:
        workers: those of one training.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    own = int(resources.get("GPU", 0) or resources.get("CPU", 1))
    return max(1, min(MOST, own // workers))


class SideBySide:
    """Runs functions, at most `at_once` concurrently, in the order of the calls.

    The driver logs what they log.
    """

    def __init__(self, at_once: int, log_queue: Queue, near: str) -> None:
        """`near` is where they write. If it is a local folder, they run on the driver's node;
        otherwise on any node with CPUs, which the head of a cluster does not have."""
        self.at_once = at_once
        self._places = asyncio.Semaphore(at_once)
        self._log_queue = log_queue
        self._options: dict[str, Any] = {"num_cpus": 0.01}
        if storage.is_local(near):
            here = ray.get_runtime_context().get_node_id()
            own = NodeAffinitySchedulingStrategy(here, soft=False)
            self._options = {"num_cpus": 0, "scheduling_strategy": own}

    async def run(self, name: str, function: Callable[[], Result]) -> Result:
        """Run a function; it and its result are pickled.

        Ray restarts it if its process dies; cancelling this coroutine kills it.
        """
        async with self._places:
            logger.info("%s", name)
            remote = _run.options(name=name, **self._options)
            running = remote.remote(function, name, self.at_once, self._log_queue)
            try:
                result: Result = await running
            except asyncio.CancelledError:
                ray.cancel(running, force=True)
                raise
            return result


@ray.remote
def _run(function: Callable[[], Any], name: str, at_once: int, log_queue: Queue) -> Any:
    # This process has not reserved a GPU: those are for the workers of trainings.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    datasets.configure()
    torch.set_num_threads(max(1, machine.cpus() // at_once))
    with messages.forward_logs(log_queue, f"[{name}] "):
        return function()
