"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def machine() -> str:
    """Processor and vector instructions, torch, commit of this project, threads, load now."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    commit = described.stdout.strip() or "unknown commit"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    processor = models[0] if models else platform.processor()
    vectors = torch.backends.cpu.get_cpu_capability()
    return (
        f"{processor}, {vectors}, torch {torch.__version__}, {commit}\n"
        f"{torch.get_num_threads()} thread(s) of {os.cpu_count()} CPUs, {load()}"
    )


def load() -> str:
    """How many processes wanted a CPU in the last minute; this one counts as soon as it works."""
    return f"load {os.getloadavg()[0]:.1f}"
