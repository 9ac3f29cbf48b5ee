"""Trainings that are killed in the middle end as if nothing had happened."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disturbed
import pytest
import ray
import torch
from disturbed import Disturbed, assert_equal, learned, notes, weights

from jobs import train_alignment
from vsa_ray import checkpoints, storage
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.config import to_yaml
from vsa_ray.outputs import OutputError
from vsa_ray.training import gathering, runs
from vsa_ray.training.alarms import TrainingError
from vsa_ray.training.config import TrainConfig
from vsa_ray.vocabulary import VocabularyConfig

pytestmark = pytest.mark.cluster

SAME = 1e-6

STEPS = 4
"""Of an epoch."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, toy_in: Callable[[Path], Path]) -> Any:
    """What two workers come to, and their data, on which others are to come to the same."""
    toy = toy_in(tmp_path_factory.mktemp("survival"))
    out = str(toy / "undisturbed")
    metrics = disturbed.train(toy, out)
    return toy, metrics, weights(out)


def terminate_then_kill(task: Disturbed, step: int) -> None:
    """Worker 1 gets a notice in step 6, and soon the end: before the checkpoint of its epoch."""
    if gathering.rank() != 1:
        return
    if step == 6 and task.once("notice"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2)  # the main thread has to come by
    last = random.Random(os.getpid()).randint(7, 8)
    if step == last and (Path(task.trace) / f"notice.{os.getpid()}.once").exists():
        task.wait_for_checkpoint("epoch-0001-step-000002")
        disturbed.kill(task, step=step)


def test_a_notice_saves_the_step_that_a_kill_goes_on_from(undisturbed: Any) -> None:
    toy, metrics, expected = undisturbed
    out = str(toy / "killed")
    found = disturbed.train(toy, out, terminate_then_kill, checkpoint_minutes=1000)
    (kill,) = notes(toy, out, "kills")
    assert 7 <= kill["step"] <= 8
    batches = learned(toy, out)
    assert len(batches) == 4  # processes: two workers, twice
    assert kill["pid"] in batches
    # Step 6 was the second of the second epoch; the others are learned again.
    after = [pid for pid, ones in batches.items() if ones[0]["time"] > kill["time"]]
    assert sorted(len(batches[pid]) for pid in after) == [3 * STEPS - 6] * 2
    assert_equal(weights(out), expected, SAME)
    same = ("epoch", "dev/mean_recall", "train/loss")
    assert [found[n] for n in same] == pytest.approx([metrics[n] for n in same], rel=1e-5)


def kill_during_upload(task: Disturbed, step: int) -> None:
    """Worker 0 dies when all of its second epoch's checkpoint is up but for the last file."""
    if gathering.rank() != 0 or step != 1 or not task.once("upload"):
        return
    task.note("first")
    write = storage.write_bytes

    def write_or_die(uri: str, data: bytes) -> None:
        if uri.startswith("s3://") and uri.endswith("/epoch-0002-step-000000/config.json"):
            task.wait_for_checkpoint("epoch-0001-step-000000")
            up = storage.list_files(uri.rpartition("/")[0])
            disturbed.kill(task, files=[file.rpartition("/")[2] for file in up])
        write(uri, data)

    storage.write_bytes = write_or_die


def test_half_a_checkpoint_in_a_bucket_is_none(undisturbed: Any, s3: str) -> None:
    toy, _, expected = undisturbed
    out = f"{s3}/half"
    disturbed.train(toy, out, kill_during_upload)
    (kill,) = notes(toy, out, "kills")
    assert set(kill["files"]) == {
        *checkpoints.FILES,
        *checkpoints.PROGRESS_FILES,
    } - {checkpoints.CONFIG}
    after = [n for n in notes(toy, out, "batches") if n["time"] > kill["time"]]
    pids = {note["pid"] for note in after if note["rank"] == 0} - {kill["pid"]}
    (again,) = ([n for n in after if n["pid"] == pid] for pid in pids)
    assert [note["epoch"] for note in again] == [1] * STEPS + [2] * STEPS
    assert_equal(weights(out), expected, SAME)
    assert not list(storage.list_files(f"{out}/{runs.CHECKPOINTS}", recursive=True))


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.trace),)


def plant(directory: Path, trace: Path) -> None:
    for name in ("model.pt", "optimizer.pt", "checkpoint.pkl", "trainer.pkl", ".metadata.pkl"):
        (directory / name).write_bytes(pickle.dumps(Planted(str(trace))))
    torch.save(Planted(str(trace)), directory / "pytorch_model.bin")


def job(toy: Path, out: str, **settings: bool) -> train_alignment.JobConfig:
    return train_alignment.JobConfig(
        regions=str(toy / "regions"),
        sentences=str(toy / "sentences"),
        out=str(toy / out),
        vocabulary=VocabularyConfig(min_count=2),
        alignment=AlignmentConfig(embed_dim=16, hidden_dim=16, word_dim=16),
        training=TrainConfig(epochs=25, batch_size=10),
        **settings,
    )


def kill_driver(config: train_alignment.JobConfig, folder: Path) -> None:
    """Start the job as a user does, and kill it some epochs later."""
    (folder / "job.yaml").write_text(to_yaml(config))
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-m", "jobs.train_alignment", "--config", str(folder / "job.yaml")],
        env={**os.environ, "RAY_ADDRESS": address},
        cwd=Path(__file__).parents[2],
        start_new_session=True,  # as if in another terminal
    )
    try:
        for _ in range(1200):
            assert driver.poll() is None, "the job ended before it was killed"
            reached = runs.done(config.out)
            if reached is not None and reached.epoch >= 3:
                break
            time.sleep(0.1)
    finally:
        driver.kill()
        driver.wait()
    assert reached is not None
    assert reached.epoch < config.training.epochs


def test_a_driver_that_is_killed_goes_on_when_it_is_told_to(
    toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{toy}/mlflow.db")
    train_alignment.main(job(toy, "straight"))
    expected = weights(str(toy / "straight"))

    kill_driver(job(toy, "killed"), toy)
    with pytest.raises(OutputError, match=r"killed was begun, \d+ of 25 epochs are done; resume"):
        train_alignment.main(job(toy, "killed"))
    for checkpoint in (toy / "killed" / "_train" / "run").iterdir():
        if checkpoint.is_dir():
            plant(checkpoint, toy / "unpickled")
    plant(toy / "killed" / "_train" / "run", toy / "unpickled")
    with caplog.at_level(logging.INFO):
        train_alignment.main(job(toy, "killed", resume=True))
    assert any(text.startswith("resuming at epoch") for text in caplog.messages)
    assert not (toy / "unpickled").exists()
    assert_equal(weights(str(toy / "killed")), expected, SAME)


def test_numbers_that_are_not_finite_stop_at_once(undisturbed: Any) -> None:
    toy, _, _ = undisturbed
    out = str(toy / "broken")
    with pytest.raises(
        TrainingError, match=r"became infinite or NaN in step \d of epoch 1; .*\(it is 1e\+30\)"
    ):
        disturbed.train(toy, out, learning_rate=1e30, num_workers=1)
    assert len(learned(toy, out)) == 1  # nobody tried again


@pytest.mark.chaos
def test_a_node_goes_and_comes(tmp_path: Path) -> None:
    """In a process and a cluster of its own; see elastic.py."""
    script = Path(__file__).with_name("elastic.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    assert found["workers"] == [2, 1, 2]
    # Whatever was going on, every epoch had each image once.
    assert found["images_by_epoch"] == [disturbed.IMAGES] * found["epochs"]
    assert found["difference"] < 1e-5
