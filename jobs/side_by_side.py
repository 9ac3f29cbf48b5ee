"""Parts of a job side by side on Ray, each in a process of its own."""

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
"""Parts at once, unless a user wants more: each training holds the features of its images."""

Result = TypeVar("Result")


def places(workers: int = 1) -> int:
    """How many parts this cluster takes at once: one a GPU, or a CPU where there is none.

    Args:
        workers: of a training.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    own = int(resources.get("GPU", 0) or resources.get("CPU", 1))
    return max(1, min(MOST, own // workers))


class SideBySide:
    """Runs functions, at most so many at once, those that were asked for first before others.

    What they log the driver logs.
    """

    def __init__(self, at_once: int, log_queue: Queue, near: str) -> None:
        """`near`: where they write. Where that is a folder, they run on the driver's node; and
        else on any that has CPUs, which the head of a cluster has not."""
        self.at_once = at_once
        self._places = asyncio.Semaphore(at_once)
        self._log_queue = log_queue
        self._options: dict[str, Any] = {"num_cpus": 0.01}
        if storage.is_local(near):
            here = ray.get_runtime_context().get_node_id()
            own = NodeAffinitySchedulingStrategy(here, soft=False)
            self._options = {"num_cpus": 0, "scheduling_strategy": own}

    async def run(self, name: str, function: Callable[[], Result]) -> Result:
        """What a function returns, or raises; it and its result are pickled.

        Where its process dies Ray starts it again; where this is given up it is killed.
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
    # It has reserved no GPU: those are for the workers of trainings.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    datasets.configure()
    torch.set_num_threads(max(1, machine.cpus() // at_once))
    with messages.telling(log_queue, f"[{name}] "):
        return function()
