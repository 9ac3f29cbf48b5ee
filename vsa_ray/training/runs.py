"""Where a training keeps its checkpoints until it is done: below its output.

OUT/_train/run/epoch-0003-step-000120/    3 epochs and 120 steps are done; see checkpoints.py
"""

from __future__ import annotations

import re

from vsa_ray import storage
from vsa_ray.checkpoints import CONFIG, Progress
from vsa_ray.outputs import TURN, Output, OutputError
from vsa_ray.training.config import TrainConfig

CHECKPOINTS = "_train"
"""Ray's own storage of a run, below its output; removed when the model is committed."""

RUN = "run"

_WHOLE = re.compile(rf"/epoch-(\d+)-step-(\d+)/{re.escape(CONFIG)}$")


def begin(output: Output, config: TrainConfig, *, resume: bool) -> None:
    """Claim an output for a training.

    Args:
        resume: go on where a training of the same settings was stopped.

    Raises:
        OutputError: it belongs to another job, or was begun and `resume` is not set.
    """
    output.begin()
    reached = done(output.uri)
    if reached is not None and not resume:
        raise OutputError(
            f"{output.uri} was begun, {reached.epoch} of {config.epochs} epochs are done; "
            "--resume True goes on, another --out starts anew"
        )


def tidy(output: str) -> None:
    """Remove what only a training needs, once its model is committed."""
    for name in (CHECKPOINTS, TURN):
        storage.delete(storage.join(output, name))


def done(output: str) -> Progress | None:
    """How far the last whole checkpoint is; None where there is none."""
    files = storage.list_files(storage.join(output, CHECKPOINTS, RUN), recursive=True)
    places = [match for file in files if (match := _WHOLE.search(file))]
    if not places:
        return None
    epoch, step = max((int(place[1]), int(place[2])) for place in places)
    return Progress(epoch=epoch, step=step)


def name(progress: Progress) -> str:
    """Of a checkpoint's directory."""
    return f"epoch-{progress.epoch:04d}-step-{progress.step:06d}"


def uri(output: str, name: str) -> str:
    """Of a checkpoint."""
    return storage.join(output, CHECKPOINTS, RUN, name)
