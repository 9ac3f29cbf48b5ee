"""What a measurement was made on."""

from __future__ import annotations

import os

import torch

from vsa_ray.machine import commit, processor


def machine() -> str:
    """Processor, torch, commit of this project, threads, load now."""
    return (
        f"{processor()}, torch {torch.__version__}, {commit()}\n"
        f"{torch.get_num_threads()} thread(s), {load()}"
    )


def load() -> str:
    """How many processes wanted a CPU in the last minute; this one counts as soon as it works."""
    return f"load {os.getloadavg()[0]:.1f}"
