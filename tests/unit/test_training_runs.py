"""A run's place: what is done of it, and who may go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from vsa_ray.checkpoints import Progress
from vsa_ray.outputs import Output, OutputError
from vsa_ray.training import runs
from vsa_ray.training.config import TrainConfig


def reach(out: Path, progress: Progress, *, whole: bool = True) -> None:
    directory = Path(runs.uri(str(out), runs.name(progress)))
    directory.mkdir(parents=True)
    (directory / "model.safetensors").touch()
    if whole:
        (directory / "config.json").touch()


def test_what_is_done_is_what_is_whole(tmp_path: Path) -> None:
    assert runs.done(str(tmp_path)) is None
    reach(tmp_path, Progress(epoch=2))
    reach(tmp_path, Progress(epoch=10, step=7))
    reach(tmp_path, Progress(epoch=11), whole=False)
    assert runs.done(str(tmp_path)) == Progress(epoch=10, step=7)


def test_a_training_that_was_begun_goes_on_only_when_told_to(tmp_path: Path) -> None:
    output = Output(uri=str(tmp_path / "model"), made_from={"job": "train"})
    config = TrainConfig(epochs=20)
    runs.begin(output, config, resume=False)
    runs.begin(output, config, resume=False)  # nothing to lose yet
    reach(tmp_path / "model", Progress(epoch=7, step=3))
    with pytest.raises(
        OutputError,
        match="model was begun, 7 of 20 epochs are done; resume it with --resume, or use",
    ):
        runs.begin(output, config, resume=False)
    runs.begin(output, config, resume=True)
    other = Output(uri=str(tmp_path / "model"), made_from={"job": "another"})
    with pytest.raises(OutputError, match="begun with another job"):
        runs.begin(other, config, resume=True)
