"""Where a training keeps its checkpoints until it is finished: below its output.

OUT/_train/run/epoch-0003-step-000120/    after 3 epochs and 120 steps; see checkpoints.py
"""

from __future__ import annotations

import re

from vsa_ray import storage
from vsa_ray.checkpoints import CONFIG, Progress
from vsa_ray.outputs import TURN, Output, OutputError
from vsa_ray.training.config import TrainConfig

CHECKPOINTS = "_train"
"""Ray's storage of a run below its output; removed when the model is committed."""

RUN = "run"

_WHOLE = re.compile(rf"/epoch-(\d+)-step-(\d+)/{re.escape(CONFIG)}$")


def begin(output: Output, config: TrainConfig, *, resume: bool) -> None:
    """Claim an output for a training.

    Args:
        resume: resume a training with the same settings.

    Raises:
        OutputError: it belongs to another job, or was begun and `resume` is not set.
    """
    output.begin()
    reached = done(output.uri)
    if reached is not None and not resume:
        raise OutputError(
            f"{output.uri} was begun, {reached.epoch} of {config.epochs} epochs are done; resume "
            "it with --resume, or use another --out to start over"
        )


def tidy(output: str) -> None:
    """Remove what only the training needs, once its model is committed."""
    for name in (CHECKPOINTS, TURN):
        storage.delete(storage.join(output, name))


def done(output: str) -> Progress | None:
    """Progress of the last complete checkpoint; None if there is none."""
    files = storage.list_files(storage.join(output, CHECKPOINTS, RUN), recursive=True)
    places = [match for file in files if (match := _WHOLE.search(file))]
    if not places:
        return None
    epoch, step = max((int(place[1]), int(place[2])) for place in places)
    return Progress(epoch=epoch, step=step)


def name(progress: Progress) -> str:
    """Name of a checkpoint's directory."""
    return f"epoch-{progress.epoch:04d}-step-{progress.step:06d}"


def uri(output: str, name: str) -> str:
    """URI of a checkpoint."""
    return storage.join(output, CHECKPOINTS, RUN, name)
