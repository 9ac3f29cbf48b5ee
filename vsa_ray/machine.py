"""What a result was measured with: the processor, and the commit of this project."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def processor() -> str:
    """Name, vector instructions and number of CPUs; and GPUs, if there are any."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    own = f"{name}, {torch.backends.cpu.get_cpu_capability()}, {cpus()} CPU(s)"
    return "; ".join([own, *gpus])


def cpus() -> int:
    """Number of CPUs that this process may use; containers and taskset can restrict it."""
    if hasattr(os, "sched_getaffinity"):  # not on all platforms
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def commit() -> str:
    """The commit as `git describe` prints it, with "-dirty" if files have changed since."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # a machine without git
        return "unknown commit"
    return described.stdout.strip() or "unknown commit"
