"""Both trainings on real Ray workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs import train_alignment, train_mrnn
from vsa_ray import checkpoints, storage
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.outputs import OutputError
from vsa_ray.training.config import TrainConfig
from vsa_ray.vocabulary import VocabularyConfig

pytestmark = pytest.mark.cluster


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


def test_alignment_on_two_workers(toy: Path) -> None:
    job = alignment_job(toy, num_workers=2)
    metrics = train_alignment.main(job)
    assert metrics["dev/mean_recall"] > 60
    aligner = checkpoints.load_aligner(job.out)
    assert "ball" in aligner.vocabulary.words
    left = {Path(file).name for file in storage.list_files(job.out, recursive=True)}
    assert left == {*checkpoints.FILES, "_SUCCESS", "_job.json"}

    assert train_alignment.main(job) == metrics  # done is done
    with pytest.raises(OutputError, match=r"another training.epochs: 12 before, 13 now"):
        train_alignment.main(alignment_job(toy, num_workers=2, epochs=13))


def test_an_output_is_where_the_user_stands(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers stand in another directory."""
    monkeypatch.chdir(toy)
    train_alignment.main(replace(alignment_job(toy, epochs=3), out="here"))
    assert checkpoints.load_aligner(str(toy / "here")).vocabulary.words


@pytest.mark.parametrize("learn_from", ["images", "both", "snippets"])
def test_captioner(toy: Path, learn_from: str) -> None:
    job = train_mrnn.JobConfig(
        regions=str(toy / "regions"),
        sentences=str(toy / "sentences"),
        snippets=str(toy / "snippets"),
        out=str(toy / "mrnn"),
        learn_from=learn_from,  # type: ignore[arg-type]
        vocabulary=VocabularyConfig(min_count=2),
        captioner=CaptionerConfig(hidden_dim=16, word_dim=16, dropout=0.0),
        training=TrainConfig(epochs=3, batch_size=8, learning_rate=0.01),
    )
    metrics = train_mrnn.main(job)
    assert metrics["dev/perplexity"] < 15
    assert ("dev/cider" in metrics) == (learn_from != "snippets")
    assert len(checkpoints.load_captioner(job.out).vocabulary) == 12
