"""A job of this project as a user starts it, and what its processes take while it runs.

Linux only: CPU time is read from /proc twice a second, of the job's process and all that it starts
(Ray's own, actors, tasks), and memory every fifth time: adding up the pages of so many processes
takes the job's CPUs some milliseconds.
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
"""Its number, and when it started: numbers come again."""


@dataclass(slots=True)
class Usage:
    """What a job took."""

    cpu: dict[Process, float] = field(default_factory=dict)
    """Seconds of each process, when it was last seen."""

    kinds: dict[Process, str] = field(default_factory=dict)
    """As `kind_of`."""

    peak_mib: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Memory of its own of the largest process of a kind; of "store", what all share."""

    def cpu_seconds(self, kind: str = "") -> float:
        """Of a kind of process, or of all."""
        return sum(
            seconds for one, seconds in self.cpu.items() if not kind or self.kinds[one] == kind
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A finished job."""

    usage: Usage
    rows: int
    writing_seconds: float
    """From the first file to the last."""


def run_job(name: str, flags: list[str], out: Path) -> Run:
    """`python -m jobs.NAME FLAGS --out OUT`, to its end, on a Ray of its own.

    Raises:
        SystemExit: it failed; what it said is shown.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    said = out.parent / f"{out.name}.log"
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": os.pathsep.join(paths)}
    environment["RAY_worker_niceness"] = "0"  # as what it is compared with
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
            job.kill()  # nothing, where it has ended
    if job.wait():
        sys.exit(f"jobs.{name} failed:\n{said.read_text()[-4000:]}")
    written = {file: span_of(file.name) for file in out.iterdir()}
    times = [file.stat().st_mtime for file, span in written.items() if span]
    rows = sum(span.rows for span in written.values() if span)
    return Run(usage, rows, max(times) - min(times))


def watch(job: subprocess.Popen[bytes]) -> Usage:
    """What a process and its children take, until it ends."""
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
    """Raise the peaks to what these processes have now."""
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
    """Of a process, in MiB: what is its own, and its part of what is shared (the object store)."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0, 0.0
    sizes = dict(line.split(":")[:2] for line in lines[1:])
    anonymous, shared = (int(sizes[name].split()[0]) / 1024 for name in ("Pss_Anon", "Pss_Shmem"))
    return anonymous, shared


def kind_of(number: int) -> str:
    """Of a process of Ray: "actor" of ours with a model, other "worker", "raylet", "gcs_server"."""
    try:
        command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ENDED
    if command.startswith("ray::"):
        return "actor" if command.startswith("ray::MapWorker") else "worker"
    return Path(command).name
