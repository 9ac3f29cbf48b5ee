"""A whole reproduction on a handful of scenes, in place of Flickr8k."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import reproduce
from vsa_ray import storage
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.captions import CaptionConfig
from vsa_ray.corpora import SceneConfig, generate_scenes
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.regions import RegionConfig
from vsa_ray.training.config import TrainConfig
from vsa_ray.vocabulary import VocabularyConfig

pytestmark = pytest.mark.cluster


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> reproduce.JobConfig:
    corpus = tmp_path / reproduce.CORPUS
    generate_scenes(str(corpus), SceneConfig(train=16, dev=4, test=4))
    (tmp_path / reproduce.PHRASES).symlink_to(corpus / "entities")
    # Scenes need no trained detector.
    own = property(lambda config: config.regions)
    monkeypatch.setattr(reproduce.JobConfig, "detecting", own)
    few = TrainConfig(epochs=1, batch_size=8)
    return reproduce.JobConfig(
        data=str(tmp_path),
        out=str(tmp_path / "out"),
        results=str(tmp_path / "results" / "scenes.json"),
        seeds=1,
        regions=RegionConfig(image_side=64, max_boxes=5),
        vocabulary=VocabularyConfig(min_count=1),
        alignment=AlignmentConfig(
            score="cosine", loss="softmax", embed_dim=16, hidden_dim=8, word_dim=8
        ),
        alignment_training=few,
        captioner=CaptionerConfig(hidden_dim=16, word_dim=8),
        captioner_training=few,
        captions=CaptionConfig(beam_size=2, max_words=10),
    )


def test_a_recipe_to_its_page(job: reproduce.JobConfig) -> None:
    document = reproduce.main(job)
    assert document == storage.read_json(job.results)
    assert document["retrieval"]["images"] == 4
    assert document["grounding"]["phrases"] > 0
    assert document["captions"]["images"] == 4
    assert list(document["losses"]) == ["sum_of_hinges", "hardest_negative", "softmax"]
    page = (Path(job.results).parent / "README.md").read_text()
    for row in (
        "whole image",
        "alignment alone, β = 0.1 deviations",
        "beam 7",
        "region-level model",
    ):
        assert f"| scenes: {row} |" in page
    # Started again, it measures nothing again.
    assert reproduce.main(job)["seconds"] == document["seconds"]
