"""Both trainings on real Ray workers."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.train import UserCallback

from jobs import train_alignment, train_mrnn
from vsa_ray import checkpoints, storage
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.errors import UserError
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.outputs import Output, OutputError
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.loop import TrainContext
from vsa_ray.vocabulary import VocabularyConfig

pytestmark = pytest.mark.cluster

# Ray's controller cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def alignment_job(run: Path, **training: float) -> train_alignment.JobConfig:
    return train_alignment.JobConfig(
        regions=str(run / "regions"),
        sentences=str(run / "sentences"),
        out=str(run / "alignment"),
        vocabulary=VocabularyConfig(min_count=2),
        alignment=AlignmentConfig(embed_dim=32, hidden_dim=16, word_dim=16, dropout=0.0),
        training=TrainConfig(
            **{"epochs": 12, "batch_size": 10, "learning_rate": 0.001, **training}
        ),
    )


def test_alignment_on_two_workers(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)  # workers stand in another directory
    job = replace(alignment_job(toy, num_workers=2), out="alignment")
    on_interrupt = signal.getsignal(signal.SIGINT)
    metrics = train_alignment.main(job)
    assert signal.getsignal(signal.SIGINT) is on_interrupt
    assert metrics["dev/mean_recall"] > 60
    aligner = checkpoints.load_aligner(job.out)
    assert "ball" in aligner.vocabulary.words
    left = {Path(file).name for file in storage.list_files(job.out, recursive=True)}
    assert left == {*checkpoints.FILES, "_SUCCESS", "_job.json"}

    assert train_alignment.main(job) == metrics  # done is done
    with pytest.raises(OutputError, match=r"another training.epochs: 12 before, 13 now"):
        train_alignment.main(replace(job, training=replace(job.training, epochs=13)))


class StartedAgain(UserCallback):
    """Another driver takes the output over after the first epoch."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:
        self.output.take_turn()


def test_only_the_last_start_of_a_training_writes(toy: Path) -> None:
    job = replace(alignment_job(toy, epochs=4), out=str(toy / "twice"))
    again = StartedAgain(Output(uri=job.out, made_from={}))
    with pytest.raises(UserError, match="the same command was started again"):
        train_alignment.main(job, context=TrainContext(callbacks=[again]))
    assert storage.committed(job.out) is None
    train_alignment.main(replace(job, resume=True))
    train_alignment.main(replace(job, out=str(toy / "once")))
    twice, once = (checkpoints.load_aligner(str(toy / out)).model for out in ("twice", "once"))
    for name, tensor in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_captioner(toy: Path) -> None:
    """Of boxes alone, which have no CIDEr; test_pipeline.py has a captioner of both."""
    job = train_mrnn.JobConfig(
        regions=str(toy / "regions"),
        sentences=str(toy / "sentences"),
        snippets=str(toy / "snippets"),
        out=str(toy / "mrnn"),
        learn_from="snippets",
        vocabulary=VocabularyConfig(min_count=2),
        captioner=CaptionerConfig(hidden_dim=16, word_dim=16, dropout=0.0),
        training=TrainConfig(epochs=3, batch_size=8, learning_rate=0.01),
    )
    metrics = train_mrnn.main(job)
    assert metrics["dev/perplexity"] < 15
    assert "dev/cider" not in metrics
    assert len(checkpoints.load_captioner(job.out).vocabulary) == 12
