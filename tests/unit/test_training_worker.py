"""A training without Ray, on one worker: it goes on, stops and warns as it should."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor, nn

from vsa_ray import checkpoints, storage, texts
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.checkpoints import Progress
from vsa_ray.storage import StorageError
from vsa_ray.tracking import Run
from vsa_ray.training import runs, worker
from vsa_ray.training.alarms import TrainingError
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.moments import Moments
from vsa_ray.training.order import Blocks
from vsa_ray.training.tasks import SPREAD, Metrics
from vsa_ray.training.worker import Worker
from vsa_ray.vocabulary import Vocabulary

STEPS = 2


@dataclass
class Runtime:
    """A single process, with checkpoints in a folder."""

    folder: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    saved: list[tuple[Progress, Metrics]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    notices: set[int] = field(default_factory=set)
    """Looks at which SIGTERM is found to have come."""

    drained: bool = False
    looks: int = 0

    def prepare(self, loss: nn.Module) -> nn.Module:
        return loss

    def latest(self) -> str:
        found = sorted(self.folder.glob("epoch-*"))
        return str(found[-1]) if found else ""

    def save(self, directory: str, progress: Progress, metrics: Metrics) -> None:
        shutil.move(directory, self.folder / runs.name(progress))
        self.saved.append((progress, metrics))

    def sigterm_received(self) -> bool:
        self.looks += 1
        return self.looks in self.notices

    def preempted(self) -> bool:
        return self.drained

    def show(self, text: str, *, warn: bool = False) -> None:
        self.shown.append(f"warning: {text}" if warn else text)


class Told(Run):
    """An MLflow run that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("", "")
        object.__setattr__(self, "told", [])

    def metrics(self, values: Any, *, step: int = 0) -> None:
        self.told.append((step, dict(values)))  # type: ignore[attr-defined]

    def tags(self, values: Any) -> None:
        self.told.append(dict(values))  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Stopping(AlignmentTask):
    """Its loss calls `before` with how often it was asked for, and changes as it says."""

    before: Callable[[int], float] = lambda _: 1.0
    calls: list[int] = field(default_factory=list)

    def loss(self, model: Any, batch: Any) -> Tensor:
        self.calls.append(len(self.calls) + 1)
        return super().loss(model, batch) * self.before(len(self.calls))


class KilledError(Exception):
    pass


def die_in(step: int) -> Callable[[int], float]:
    def before(call: int) -> float:
        if call == step:
            raise KilledError
        return 1.0

    return before


@pytest.fixture
def task(
    tmp_path: Path, regions: pa.Table, sentences: pa.Table, vocabulary: Vocabulary
) -> Stopping:
    for name, table in (("regions", regions), ("sentences", sentences)):
        split = pc.replace_substring(table["split"], "test", "dev")
        at = table.schema.names.index("split")
        storage.write_table(str(tmp_path / name), table.set_column(at, "split", split))
    return Stopping(
        config=AlignmentConfig(embed_dim=8, hidden_dim=5, word_dim=4, dropout=0.4),
        vocabulary=vocabulary,
        moments=Moments.of(str(tmp_path / "regions")),
        regions=str(tmp_path / "regions"),
        sentences=str(tmp_path / "sentences"),
    )


@pytest.fixture
def images(regions: pa.Table, sentences: pa.Table) -> Blocks:
    """Four, in two blocks."""
    table = texts.attach(regions, texts.group_by_image(texts.of_sentences(sentences)))
    return Blocks([3, 1], lambda number: table.slice(3 * number, 3))


CONFIG = TrainConfig(epochs=3, batch_size=2, learning_rate=0.01)


def train(
    task: AlignmentTask, images: Blocks, runtime: Runtime, config: TrainConfig = CONFIG
) -> dict[str, Tensor]:
    runtime.folder.mkdir(exist_ok=True)
    one = Worker(task, config, Told(), runtime, images)
    one.train()
    return one.model.state_dict()


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_same_seed_gives_the_same_weights(
    task: Stopping, images: Blocks, tmp_path: Path
) -> None:
    one = train(task, images, Runtime(tmp_path / "one"))
    assert_equal(train(task, images, Runtime(tmp_path / "two")), one)
    other = train(task, images, Runtime(tmp_path / "three"), replace(CONFIG, seed=1))
    assert not torch.equal(other["region_layer.weight"], one["region_layer.weight"])


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("killed", range(1, 3 * STEPS + 1))
def test_a_training_that_is_killed_in_any_step_ends_the_same(
    killed: int, optimizer: Any, task: Stopping, images: Blocks, tmp_path: Path
) -> None:
    config = replace(CONFIG, optimizer=optimizer, checkpoint_minutes=1e-9)  # after every step
    straight = Runtime(tmp_path / "straight")
    expected = train(task, images, straight, config)
    runtime = Runtime(tmp_path / "killed")
    with pytest.raises(KilledError):
        train(replace(task, before=die_in(killed), calls=[]), images, runtime, config)
    again = replace(task, calls=[])
    assert_equal(train(again, images, runtime, config), expected)
    assert len(again.calls) == 3 * STEPS - (killed - 1)  # none twice, but the one that died
    for name in ("train/loss", "dev/mean_recall", SPREAD):
        assert runtime.saved[-1][1][name] == pytest.approx(straight.saved[-1][1][name])


def test_dev_is_measured_as_often_as_asked_and_at_the_end(
    task: Stopping, images: Blocks, tmp_path: Path
) -> None:
    expected = train(task, images, Runtime(tmp_path / "often"))
    runtime = Runtime(tmp_path / "run")
    assert_equal(train(task, images, runtime, replace(CONFIG, measure_every=2)), expected)
    measured = ["dev/mean_recall" in metrics for _, metrics in runtime.saved]
    assert measured == ["epoch" in metrics for _, metrics in runtime.saved] == [False, True, True]


def test_a_notice_writes_a_checkpoint_at_once(
    task: Stopping, images: Blocks, tmp_path: Path
) -> None:
    runtime = Runtime(tmp_path / "run", notices={3})
    expected = train(task, images, Runtime(tmp_path / "straight"))
    assert_equal(train(task, images, runtime), expected)
    at = [(progress.epoch, progress.step) for progress, _ in runtime.saved]
    assert at == [(1, 0), (1, 1), (2, 0), (3, 0)]
    assert "warning: a worker is about to end: writing a checkpoint" in runtime.shown


def test_a_node_that_drains_is_heard_of_once(
    task: Stopping, images: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "NOTICE_SECONDS", -1.0)  # ask in every step
    runtime = Runtime(tmp_path / "run", drained=True)
    train(task, images, runtime)
    assert [(p.epoch, p.step) for p, _ in runtime.saved] == [(0, 1), (1, 0), (2, 0), (3, 0)]


def test_a_number_that_is_not_finite_stops_training(
    task: Stopping, images: Blocks, tmp_path: Path
) -> None:
    broken = replace(task, before=lambda call: float("nan") if call == 3 else 1.0)
    runtime = Runtime(tmp_path / "run")
    with pytest.raises(
        TrainingError,
        match=r"the loss, the gradient of \w+.* and \d+ more became infinite or NaN "
        r"in step 1 of epoch 2; try a lower training.learning_rate \(it is 0.01\)",
    ):
        train(broken, images, runtime)
    assert [progress.epoch for progress, _ in runtime.saved] == [1]  # and no broken weights


def test_broken_numbers_are_found_where_looks_are_rare(
    task: Stopping, images: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(task, before=lambda call: float("inf") if call == 3 else 1.0)
    runtime = Runtime(tmp_path / "run")
    runtime.folder.mkdir()
    one = Worker(broken, CONFIG, Told(), runtime, images)
    one._every = 20  # as on a GPU
    with pytest.raises(TrainingError, match="in step 1 of epoch 2"):
        one.train()
    assert runtime.looks == 2


def test_a_model_that_collapsed_is_told_of_once(
    task: Stopping, images: Blocks, tmp_path: Path
) -> None:
    """With a margin this wide, the scores are all equal beside it."""
    config = replace(task.config, margin=1e6)
    run, runtime = Told(), Runtime(tmp_path / "run")
    runtime.folder.mkdir()
    Worker(replace(task, config=config), CONFIG, run, runtime, images).train()
    warnings = [text for text in runtime.shown if text.startswith("warning")]
    assert warnings == [
        "warning: the model has collapsed: the loss of epoch 3 is 2e+06, and that of a model that "
        "scores all pairs alike is 2e+06; try a lower training.learning_rate (it is 0.01), "
        "training.warmup_steps 60, alignment.score cosine, alignment.loss softmax; in a pipeline, "
        "training is called alignment_training or captioner_training"
    ]
    told = run.told  # type: ignore[attr-defined]
    assert {"alarm": warnings[0].removeprefix("warning: ")} in told
    alarms = [values["alarm/collapsed"] for step, values in (t for t in told if len(t) == 2)]
    assert alarms == [0.0, 1.0, 1.0]


def test_one_epoch_without_differences_is_no_alarm(
    task: Stopping, images: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.0, 0.0, 0.5, 0.0])
    monkeypatch.setattr(Stopping, "evaluate", lambda *_: {task.score: 1.0, SPREAD: next(found)})
    run, runtime = Told(), Runtime(tmp_path / "run")
    runtime.folder.mkdir()
    Worker(task, replace(CONFIG, epochs=3), run, runtime, images).train()
    assert not [text for text in runtime.shown if text.startswith("warning")]
    told = run.told  # type: ignore[attr-defined]
    alarms = [values["alarm/collapsed"] for step, values in (t for t in told if len(t) == 2)]
    assert alarms == [0.0, 1.0, 0.0]


def test_progress_within_an_epoch(
    task: Stopping, images: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SHOW_SECONDS", -1.0)  # in every step
    run, runtime = Told(), Runtime(tmp_path / "run")
    runtime.folder.mkdir()
    Worker(task, CONFIG, run, runtime, images).train()
    assert runtime.shown[0].startswith("epoch 1/3  step 1/2  loss ")
    assert re.search(r"  words per second [\d,.]+  images per second [\d,.]+  ", runtime.shown[0])
    assert re.search(r"  \(\d\d:\d\d left\)$", runtime.shown[0])
    told = dict(t for t in run.told if "step/loss" in t[1])  # type: ignore[attr-defined]
    assert list(told) == [1, 2, 3, 4, 5, 6]
    assert told[3].keys() == {
        f"step/{name}" for name in ("loss", "gradient", "words_per_second", "images_per_second")
    }
    assert all(np.isfinite(list(values.values())).all() for values in told.values())
    epoch = next(values for step, values in run.told if "train/loss" in values)  # type: ignore[attr-defined]
    assert epoch["train/loss"] == pytest.approx((told[1]["step/loss"] + told[2]["step/loss"]) / 2)


def test_the_checkpoint_of_another_training(task: Stopping, images: Blocks, tmp_path: Path) -> None:
    runtime = Runtime(tmp_path / "run")
    train(task, images, runtime)
    with pytest.raises(StorageError, match=r"to another training: Progress\(epoch=3"):
        train(task, images, runtime, replace(CONFIG, epochs=2))
    other = replace(task, config=replace(task.config, embed_dim=9))
    with pytest.raises(StorageError, match=r"region_layer.*shape \(8,\).*shape \(9,\)"):
        train(other, images, runtime)
    checkpoints.load_aligner(runtime.latest())  # as it was
