"""The machine that a measurement was made on."""

from __future__ import annotations

import os

import torch

from vsa_ray.machine import commit, processor


def machine() -> str:
    """Processor, torch version, commit of this project, threads, and current load."""
    return (
        f"{processor()}, torch {torch.__version__}, {commit()}\n"
        f"{torch.get_num_threads()} thread(s), {load()}"
    )


def load() -> str:
    """Load average of the last minute; it includes this process once it has been running."""
    return f"load {os.getloadavg()[0]:.1f}"
