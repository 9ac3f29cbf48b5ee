"""A small alignment training that leaves a trace, and can be disturbed in the middle.

Every worker process appends what it does to a file of its own, so a test can prove that what it
disturbed was running, and tell which images were learned in which step.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from vsa_ray import checkpoints, datasets, schema, storage, texts, tracking
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.outputs import Output
from vsa_ray.training import gathering, loop, runs
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.moments import Moments
from vsa_ray.training.tasks import Metrics, Pair
from vsa_ray.vocabulary import Vocabulary

IMAGES = 40
"""Of the toy's train split."""

_steps = 0  # of this process


@dataclass(frozen=True, kw_only=True)
class Disturbed(AlignmentTask):
    out: str
    trace: str
    disturb: Callable[[Disturbed, int], None]
    """Called in every step of every worker with the number of its steps so far, from 1."""

    def batch(self, images: pa.Table, *, epoch: int, seed: int) -> Pair:
        self.note("batches", epoch=epoch, images=images["image_id"].to_pylist())
        return super().batch(images, epoch=epoch, seed=seed)

    def loss(self, model: AlignmentModel, batch: Pair) -> Tensor:
        global _steps
        _steps += 1
        self.note("steps", number=_steps)
        self.disturb(self, _steps)
        return super().loss(model, batch)

    def note(self, what: str, **values: Any) -> None:
        values |= {"rank": gathering.rank(), "workers": gathering.num_workers()}
        line = json.dumps({**values, "time": time.time(), "pid": os.getpid()})
        with (Path(self.trace) / f"{os.getpid()}.{what}").open("a") as file:
            file.write(line + "\n")

    def once(self, name: str) -> bool:
        """Whether this is the first time that any worker asks for it."""
        try:
            (Path(self.trace) / f"{name}.{os.getpid()}.once").touch(exist_ok=False)
        except FileExistsError:
            return False
        return len(list(Path(self.trace).glob(f"{name}.*.once"))) == 1

    def wait_for_checkpoint(self, name: str) -> None:
        """Until Ray knows of it."""
        snapshot = storage.join(self.out, "_train/run/checkpoint_manager_snapshot.json")
        for _ in range(300):
            if storage.exists(snapshot) and name in storage.read_text(snapshot):
                return
            time.sleep(0.1)
        raise TimeoutError(f"{snapshot} never knew of {name}")


def nothing(task: Disturbed, step: int) -> None:
    """No disturbance."""


def kill(task: Disturbed, **values: Any) -> None:
    """Like the kernel's out-of-memory killer."""
    task.note("kills", **values)
    os.kill(os.getpid(), signal.SIGKILL)


def train(
    toy: Path,
    out: str,
    disturb: Callable[[Disturbed, int], None] = nothing,
    *,
    dropout: float = 0.3,
    **training: float,
) -> Metrics:
    """The trace is in a folder beside `toy`'s tables, named as the output."""
    trace = toy / f"trace-{out.rpartition('/')[2]}"
    trace.mkdir()
    sentences = storage.read_table(str(toy / "sentences"), schema.SENTENCES, split="train")
    vocabulary = Vocabulary.build(sentences["words"].to_pylist(), min_count=2)
    task = Disturbed(
        config=AlignmentConfig(embed_dim=16, hidden_dim=16, word_dim=16, dropout=dropout),
        vocabulary=vocabulary,
        moments=Moments.of(str(toy / "regions")),
        regions=str(toy / "regions"),
        sentences=str(toy / "sentences"),
        out=out,
        trace=str(trace),
        disturb=disturb,
    )
    config = TrainConfig(
        **{"epochs": 3, "batch_size": 10, "learning_rate": 0.003, "num_workers": 2, **training}
    )
    output = Output(uri=out, made_from={"job": "test"})
    runs.begin(output, config, resume=False)
    images = datasets.training_images(
        str(toy / "regions"),
        texts.group_by_image(texts.known(texts.of_sentences(sentences), vocabulary)),
    )
    with tracking.run("disturbed", {}) as run:
        return loop.train(task, images, config, output, run)


def weights(out: str) -> dict[str, Tensor]:
    return checkpoints.load_aligner(out).model.state_dict()


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol, msg=name)


def notes(toy: Path, out: str, what: str) -> list[dict[str, Any]]:
    """What all processes noted, in order of time."""
    trace = toy / f"trace-{out.rpartition('/')[2]}"
    lines = [line for file in trace.glob(f"*.{what}") for line in file.read_text().splitlines()]
    return sorted((json.loads(line) for line in lines), key=lambda note: note["time"])


def learned(toy: Path, out: str) -> dict[int, list[dict[str, Any]]]:
    """By process: the batches that it learned from. Others were made ahead and not used."""
    steps = notes(toy, out, "steps")
    made = notes(toy, out, "batches")
    return {
        pid: [note for note in made if note["pid"] == pid][
            : sum(note["pid"] == pid for note in steps)
        ]
        for pid in {note["pid"] for note in made}
    }
