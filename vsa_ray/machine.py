"""What something was measured with: the processor, and the commit of this project."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def processor() -> str:
    """Its name, vector instructions and CPUs; GPUs, where there are some."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    own = f"{name}, {torch.backends.cpu.get_cpu_capability()}, {cpus()} CPU(s)"
    return "; ".join([own, *gpus])


def cpus() -> int:
    """Those that this process may run on: a container, or taskset, can allow it a part of all."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def commit() -> str:
    """As `git describe` has it, with "-dirty" where files have changed since."""
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
