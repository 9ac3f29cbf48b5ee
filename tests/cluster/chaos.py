"""A job that is started again and again while all that it consists of is killed at random moments.

    with Machines(2, folder) as machines:
        chaos = Chaos(Job("caption_corpus", flags, machines.address, folder), machines, files, rng)
        chaos.run(["driver", "node", "actor", "worker"])

Everything dies by SIGKILL, and the job is started again as a user would: by the same command. A
kill is a hit where the process was at work: a driver some of whose files are there, a worker whose
title (Ray writes there what it does) names a task of the plan.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ray.cluster_utils import Cluster

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).parents[2]

PAUSE_SECONDS = 3.0
"""Between something new in the output and the next kill, at most."""

HASTE = 0.2
"""Share of the kills that do not wait for something new."""

AWAY_SECONDS = 10.0
"""Between the loss of a machine and the start of another, at most."""

HANGS_SECONDS = 180.0
"""Nothing was killed and nothing was written for so long: the job hangs."""

GIVING_UP = ("start the same command again", "start again later", "start the job again")
"""Of these a job says one where it ends for no fault of its own, or of its input."""

RAYLET = "raylet"

Strike = Callable[[], bool]
"""Kills something; False where there was nothing at work to be killed."""


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


class Job:
    """`python -m jobs.NAME`, as a user starts it on the machine of the head."""

    def __init__(self, name: str, flags: Sequence[str], address: str, folder: Path) -> None:
        """`address` is Ray's; `folder` the working directory."""
        self._command = [sys.executable, "-m", f"jobs.{name}", *flags]
        paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
        self._environment = {
            **os.environ,
            "RAY_ADDRESS": address,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        self._folder, self._log = folder, folder / "job.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stderr=log
            )
        self.starts += 1

    @property
    def code(self) -> int | None:
        """What it ended with; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def said(self) -> str:
        """The end of it."""
        return self._log.read_text(errors="replace")[-6000:]

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


class Chaos:
    """Kills, and starts again."""

    def __init__(
        self,
        job: Job,
        machines: Machines,
        files: Callable[[], Iterable[str]],
        rng: random.Random,
        *,
        replaced: bool = True,
        **more: Strike,
    ) -> None:
        """
        Args:
            files: those of the output that are there.
            replaced: whether another machine comes for one that is lost.
            more: what else may happen while the job is at work, by name.
        """
        self._job, self._machines, self._files = job, machines, files
        self._random, self._replaced = rng, replaced
        self._strikes: dict[str, Strike] = {
            "driver": self._driver,
            "actor": lambda: self._worker("actor"),
            "worker": lambda: self._worker("worker"),
            "node": self._node,
            **more,
        }
        self.hits = Counter[str]()
        self.missed = 0
        """Drivers that were killed before anything of theirs was written."""

        self.gave_up: list[str] = []
        """What the job said where it ended unfinished without having been killed."""

        self._seen = set[str]()
        self._new = False  # since the driver has started
        self._moved = 0.0  # when something was last killed, started or written
        self._due: float | None = None  # the next kill; None: not before something new is written
        self._away: list[float] = []  # when machines come back

    def run(self, kinds: Sequence[str]) -> list[str]:
        """The job, to its end, and kills of these kinds; returns those that it ended before."""
        left = list(kinds)
        self._start()
        try:
            while (code := self._job.code) != 0:
                if code is not None:
                    self._note_end(code)
                    self._start()
                self._look()
                if left and self._due is not None and time.monotonic() >= self._due:
                    self._strike(left)
                time.sleep(self._random.uniform(0.05, 0.4))
        finally:
            self._job.kill()
        return left

    def _strike(self, left: list[str]) -> None:
        if not self._strikes[left[0]]():
            return
        logger.info("killed: %s; %d are left", left[0], len(left) - 1)
        self.hits[left.pop(0)] += 1
        self._moved = time.monotonic()
        hasty = self._random.random() < HASTE
        self._due = self._moved + self._pause() if hasty else None

    def _pause(self) -> float:
        return self._random.uniform(0, PAUSE_SECONDS)

    def _start(self) -> None:
        self._job.start()
        self._new, self._moved = False, time.monotonic()

    def _look(self) -> None:
        """At what there is now: files, and machines that are due."""
        now = time.monotonic()
        for _ in [at for at in self._away if at <= now]:
            self._machines.add()
        self._away = [at for at in self._away if at > now]
        if new := {*self._files()} - self._seen:
            self._seen |= new
            self._new, self._moved = True, now
            self._due = self._due or now + self._pause()
        assert now - self._moved < HANGS_SECONDS, f"hangs: {self._job.said}"

    def _note_end(self, code: int) -> None:
        said = self._job.said
        assert code == 2, f"exit code {code}: {said}"
        assert any(words in said for words in GIVING_UP), said
        self.gave_up.append(said.strip().rpartition("\n")[2])
        logger.info("gave up: %s", self.gave_up[-1])

    def _driver(self) -> bool:
        hit = self._new
        self._job.kill()
        self._start()
        if not hit:
            self.missed += 1
            self._due = None
        return hit

    def _worker(self, work: str) -> bool:
        found = [one.pid for one in self._machines.at_work() if one.work == work]
        if found:
            kill([self._random.choice(sorted(found))])
        return bool(found)

    def _node(self) -> bool:
        found = {one.parent for one in self._machines.at_work()}
        if found:
            self._machines.lose(self._random.choice(sorted(found)))
            if self._replaced:
                away = self._random.uniform(0, AWAY_SECONDS)
                self._away.append(time.monotonic() + away)
        return bool(found)
