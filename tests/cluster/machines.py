"""A Ray cluster of several machines on this one, any of whose processes can be killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

logger = logging.getLogger(__name__)

RAYLET = "raylet"


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    title: str

    @property
    def work(self) -> str:
        """What a worker of Ray is at: "actor" (it holds a model), "worker" (a task) or ""."""
        if self.title.startswith("ray::MapWorker"):
            return "actor" if self.title.endswith(".submit") else ""
        return "worker" if self.title.startswith("ray::MapBatches") else ""


def processes() -> list[Process]:
    """All of this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # gone meanwhile
            continue
        found.append(Process(int(entry.name), int(parent), title.strip()))
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            logger.info("process %d was gone already", pid)


class Machines:
    """A Ray cluster: a head, on which drivers run and no tasks, and nodes of one CPU each.

    Its processes have the environment that this one has when it is made.
    """

    def __init__(self, nodes: int, folder: Path) -> None:
        """`folder` is for Ray's own files; the paths of sockets in it have to be short."""
        # In a process of its own: a `Cluster` reconnects the Ray of its process.
        self._maker = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self.address = self._maker.submit(_start_head, folder).result()
        self._nodes: list[Future[int]] = []
        for _ in range(nodes):
            self.add()
        for node in self._nodes:
            node.result()

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        self._maker.submit(_stop).result()
        self._maker.shutdown()

    def add(self) -> None:
        """Start a node; does not wait for it."""
        self._nodes.append(self._maker.submit(_start_node))

    def at_work(self) -> list[Process]:
        """The workers of the nodes that run something of a plan; their parent is the node."""
        nodes = {node.result() for node in self._nodes if node.done()}
        return [one for one in processes() if one.parent in nodes and one.work]

    def lose(self, node: int) -> None:
        """All processes of a node die at once."""
        kill([node, *(one.pid for one in processes() if one.parent == node)])
        self._nodes = [one for one in self._nodes if not one.done() or one.result() != node]
        self._maker.submit(_forget, node)


_cluster: Cluster | None = None
"""Of the process that the functions below run in."""


def _start_head(folder: Path) -> str:
    """Ray's address."""
    global _cluster
    (folder / "ray").mkdir()
    os.environ["RAY_TMPDIR"] = str(folder)
    _cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    return str(_cluster.address)


def _start_node() -> int:
    """Its raylet, the parent of all its workers."""
    assert _cluster is not None
    node = _cluster.add_node(num_cpus=1)
    return int(node.all_processes[RAYLET][0].process.pid)


def _forget(raylet: int) -> None:
    """A node that was killed."""
    assert _cluster is not None
    for node in [*_cluster.worker_nodes]:
        if node.all_processes[RAYLET][0].process.pid == raylet:
            _cluster.remove_node(node, allow_graceful=False)


def _stop() -> None:
    assert _cluster is not None
    for node in [*_cluster.worker_nodes, _cluster.head_node]:
        _cluster.remove_node(node, allow_graceful=False)
