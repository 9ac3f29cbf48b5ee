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
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from machines import Machines, kill

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).parents[2]

PAUSE_SECONDS = 1.5
"""Between something new in the output and the next kill, at most."""

HASTE = 0.2
"""Share of the kills that do not wait for something new."""

AWAY_SECONDS = 10.0
"""Between the loss of a machine and the start of another, at most."""

HANGS_SECONDS = 170.0
"""Nothing was killed and nothing was written for so long: the job hangs."""

START_SECONDS = 5.0
"""A driver writes nothing so soon: what is new are files of the one before, whose workers die."""

GIVING_UP = ("run the same command again", "try again later")
"""Of these a job says one where it ends for no fault of its own, or of its input."""

Strike = Callable[[], bool]
"""Kills something; False where there was nothing at work to be killed."""


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
        self._started = 0.0  # when the driver was
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
            for _ in self._away:
                self._machines.add()
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
        self._new = False
        self._started = self._moved = time.monotonic()

    def _look(self) -> None:
        """At what there is now: files, and machines that are due."""
        now = time.monotonic()
        for _ in [at for at in self._away if at <= now]:
            self._machines.add()
        self._away = [at for at in self._away if at > now]
        if new := {*self._files()} - self._seen:
            self._seen |= new
            self._new = now - self._started > START_SECONDS
            self._moved = now
            self._due = self._due or now + self._pause()
        assert now - self._moved < HANGS_SECONDS, f"hangs: {self._job.said}"

    def _note_end(self, code: int) -> None:
        said = self._job.said
        assert code == 2, f"exit code {code}: {said}"
        assert any(words in said.lower() for words in GIVING_UP), said
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
