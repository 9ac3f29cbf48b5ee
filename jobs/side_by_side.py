"""Parts of a job side by side on Ray, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
import torch
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vsa_ray import datasets, machine

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

    They run beside the driver, on its own node, and what they log it logs.
    """

    def __init__(self, at_once: int, told: Queue) -> None:
        self.at_once = at_once
        self._places = asyncio.Semaphore(at_once)
        self._told = told

    async def run(self, name: str, function: Callable[[], Result]) -> Result:
        """What a function returns, or raises; it and its result are pickled.

        Where its process dies Ray starts it again.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        async with self._places:
            logger.info("%s", name)
            remote = _run.options(name=name, scheduling_strategy=here)
            result: Result = await remote.remote(function, name, self.at_once, self._told)
            return result


@ray.remote(num_cpus=0)  # what it starts asks for CPUs
def _run(function: Callable[[], Any], name: str, at_once: int, told: Queue) -> Any:
    datasets.configure()
    torch.set_num_threads(max(1, machine.cpus() // at_once))
    with _telling(name, told):
        return function()


@contextmanager
def _telling(name: str, told: Queue) -> Iterator[None]:
    """What is logged in this process goes to a queue, after the name of who says it."""

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.put((record.levelno, f"[{name}] {record.getMessage()}"))

    root, own = logging.getLogger(), Told()
    level = root.level
    root.addHandler(own)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(own)
