"""Run a job as a user would, and measure the CPU time and memory of its processes.

Linux only: CPU time is read from /proc twice a second, for the job's process and all its
descendants (Ray's own, actors, tasks), and memory every fifth time, since adding up the pages of so
many processes costs some CPU milliseconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from vsa_ray.spans import span_of

PROJECT = Path(__file__).parents[1]
SAMPLE_SECONDS = 0.5
MEMORY_SAMPLES = 5
ENDED = "ended"
TICKS = os.sysconf("SC_CLK_TCK")

Process = tuple[int, int]
"""Process id and start time, since ids are reused."""


@dataclass(slots=True)
class Usage:
    """Resources used by a job."""

    cpu: dict[Process, float] = field(default_factory=dict)
    """CPU seconds of each process when it was last seen."""

    kinds: dict[Process, str] = field(default_factory=dict)
    """Kind of each process, see `kind_of`."""

    peak_mib: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Peak private memory of the largest process of each kind; for "store", the shared memory."""

    def cpu_seconds(self, kind: str = "") -> float:
        """CPU seconds of one kind of process, or of all."""
        return sum(
            seconds for one, seconds in self.cpu.items() if not kind or self.kinds[one] == kind
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A finished job."""

    usage: Usage
    rows: int
    writing_seconds: float
    """From the first written file to the last."""


def run_job(name: str, flags: list[str], out: Path) -> Run:
    """Run `python -m jobs.NAME FLAGS --out OUT` to its end, with its own Ray.

    Raises:
        SystemExit: it failed; the end of its log is shown.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    said = out.parent / f"{out.name}.log"
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": os.pathsep.join(paths)}
    environment["RAY_worker_niceness"] = "0"  # like what it is compared with
    with said.open("w") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", f"jobs.{name}", *flags, "--out", str(out)],
            cwd=out.parent,  # mlflow.db goes there
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            usage = watch(job)
        finally:
            job.kill()  # no effect if it has ended
    if job.wait():
        sys.exit(f"jobs.{name} failed:\n{said.read_text()[-4000:]}")
    written = {file: span_of(file.name) for file in out.iterdir()}
    times = [file.stat().st_mtime for file, span in written.items() if span]
    rows = sum(span.rows for span in written.values() if span)
    return Run(usage, rows, max(times) - min(times))


def watch(job: subprocess.Popen[bytes]) -> Usage:
    """Measure a process and its descendants until it ends."""
    usage = Usage()
    for sample in count():
        if job.poll() is not None:
            break
        found = dict(family(job.pid))
        usage.cpu |= found
        for process in found:
            kind = "driver" if process[0] == job.pid else kind_of(process[0])
            if kind != ENDED or process not in usage.kinds:
                usage.kinds[process] = kind
        if sample % MEMORY_SAMPLES == 0:
            measure(found, usage)
        time.sleep(SAMPLE_SECONDS)
    return usage


def measure(processes: Iterable[Process], usage: Usage) -> None:
    """Update the peaks with the current memory of these processes."""
    shared = 0.0
    for process in processes:
        kind = usage.kinds[process]
        own, of_all = memory(process[0])
        usage.peak_mib[kind] = max(usage.peak_mib[kind], own)
        shared += of_all
    usage.peak_mib["store"] = max(usage.peak_mib["store"], shared)


def family(root: int) -> Iterator[tuple[Process, float]]:
    """A process and its descendants, with the CPU seconds of each."""
    found: dict[int, tuple[int, Process, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:  # it has ended
            continue
        values = stat.rpartition(")")[2].split()
        number, parent = int(folder.name), int(values[1])
        seconds = (int(values[11]) + int(values[12])) / TICKS
        found[number] = (parent, (number, int(values[19])), seconds)
    for number, (_, process, seconds) in found.items():
        above = number
        while above in found and above != root:
            above = found[above][0]
        if above == root:
            yield process, seconds


def memory(number: int) -> tuple[float, float]:
    """Private memory of a process, and its share of shared memory (the object store), in MiB."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0, 0.0
    sizes = dict(line.split(":")[:2] for line in lines[1:])
    anonymous, shared = (int(sizes[name].split()[0]) / 1024 for name in ("Pss_Anon", "Pss_Shmem"))
    return anonymous, shared


def kind_of(number: int) -> str:
    """Kind of a Ray process: "actor" (ours, with a model), "worker", "raylet", "gcs_server"."""
    try:
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ENDED
    if command.startswith("ray::"):
        return "actor" if command.startswith("ray::MapWorker") else "worker"
    return Path(command).name
