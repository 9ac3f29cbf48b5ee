"""The whole chain on a handful of scenes, from S3 to S3, with broken pictures among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from jobs import caption_corpus, detect_regions, pipeline, read_corpus
from vsa_ray import schema, storage
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.captions import CaptionConfig
from vsa_ray.corpora import ReaderConfig, SceneConfig, generate_scenes
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.training.config import TrainConfig
from vsa_ray.vocabulary import VocabularyConfig

pytestmark = pytest.mark.cluster

SCENES = SceneConfig(train=16, dev=4, test=6)
BROKEN = "train-000003.jpg"


@pytest.fixture(scope="module")
def bucket() -> str:
    boto3.client("s3").create_bucket(Bucket="pipeline")
    return "s3://pipeline"


@pytest.fixture(scope="module")
def job(bucket: str) -> pipeline.JobConfig:
    corpus = storage.join(bucket, "scenes")
    generate_scenes(corpus, SCENES)
    storage.write_bytes(storage.join(corpus, "images", BROKEN), b"not a picture")
    few = TrainConfig(epochs=2, batch_size=8)
    return pipeline.JobConfig(
        corpus=corpus,
        out=storage.join(bucket, "run"),
        reader=ReaderConfig(phrases=storage.join(corpus, "entities")),
        vocabulary=VocabularyConfig(min_count=1),
        alignment=AlignmentConfig(embed_dim=32, hidden_dim=16, word_dim=16),
        alignment_training=few,
        captioner=CaptionerConfig(hidden_dim=32, word_dim=16),
        captioner_training=few,
        captions=CaptionConfig(beam_size=2),
    )


@pytest.fixture(scope="module")
def run(job: pipeline.JobConfig) -> str:
    pipeline.main(job)
    return job.out


def test_what_a_run_leaves(run: str) -> None:
    rows = {
        name: len(storage.read_table(storage.join(run, name), columns))
        for name, columns in [
            ("images", schema.IMAGES),
            ("sentences", schema.SENTENCES),
            ("phrases", schema.PHRASES),
            ("regions", schema.REGIONS),
            ("snippets", schema.SNIPPETS),
            ("captions", schema.CAPTIONS),
        ]
    }
    assert rows == {
        "images": 26,
        "sentences": 130,
        "phrases": 130,
        "regions": 26,
        "snippets": 125,  # a broken picture has no regions to align with
        "captions": 26,
    }
    page = storage.read_text(storage.join(run, "gallery", "index.html"))
    assert page.startswith("<!doctype html>")
    assert "Regions: detector selective-search, " in page
    assert "Captioner: cell " in page


def test_metrics(run: str) -> None:
    metrics = storage.read_json(storage.join(run, "metrics.json"))
    assert metrics["retrieval"]["images"] == 6
    assert metrics["retrieval"]["sentences"] == 30
    for direction in ("image_annotation", "image_search"):
        assert set(metrics["retrieval"][direction]) == {"r1", "r5", "r10", "median_rank"}
    assert metrics["grounding"]["phrases"] > 30
    assert 0 < metrics["grounding"]["random_iou50"] < metrics["grounding"]["upper_bound_iou50"]
    assert metrics["captions"]["images"] == 6
    assert metrics["captions"]["bleu1"] > 0
    assert metrics["captions"]["nearest_neighbour"]["bleu1"] > 0


def test_a_broken_picture_is_a_row_with_a_reason(run: str) -> None:
    captions = storage.read_table(storage.join(run, "captions"), schema.CAPTIONS).to_pylist()
    (broken,) = [row for row in captions if row["status"] != "ok"]
    assert broken["image_id"] == BROKEN
    assert broken["status"] == "not_an_image"
    assert broken["error"]
    assert broken["caption"] is None
    assert broken["regions"] == []
    good = [row for row in captions if row["status"] == "ok"]
    assert all(row["caption"] and row["regions"] for row in good)


def test_a_finished_run_started_again_does_nothing(job: pipeline.JobConfig, run: str) -> None:
    before = written(run)
    pipeline.main(job)
    after = written(run)
    unchanged = {file for file in before if "/metrics.json" not in file and "/gallery/" not in file}
    assert {file: before[file] for file in unchanged} == {file: after[file] for file in unchanged}
    assert before.keys() == after.keys()


def test_regions_on_disk_equal_those_on_s3(
    job: pipeline.JobConfig, run: str, tmp_path: Path
) -> None:
    read_corpus.main(read_corpus.JobConfig(corpus=job.corpus, out=str(tmp_path), reader=job.reader))
    detect_regions.main(
        detect_regions.JobConfig(images=str(tmp_path / "images"), out=str(tmp_path / "regions"))
    )
    assert table(str(tmp_path / "regions")) == table(storage.join(run, "regions"))


def test_a_job_that_lost_files_makes_them_again(
    job: pipeline.JobConfig, run: str, tmp_path: Path
) -> None:
    """As after a kill: some files are committed, the table is not."""
    config = caption_corpus.JobConfig(
        regions_table=storage.join(run, "regions"),
        mrnn=storage.join(run, "mrnn"),
        out=str(tmp_path / "captions"),
        captions=job.captions,
    )
    caption_corpus.main(config)
    (tmp_path / "captions" / storage.SUCCESS).unlink()
    for file in sorted((tmp_path / "captions").glob("*.parquet"))[::2]:
        file.unlink()
    caption_corpus.main(config)
    whole = storage.read_table(storage.join(run, "captions"), schema.CAPTIONS)
    again = storage.read_table(config.out, schema.CAPTIONS)
    assert again.sort_by("image_id") == whole.sort_by("image_id")


def test_captions_straight_from_a_folder_of_images(
    job: pipeline.JobConfig, run: str, tmp_path: Path
) -> None:
    config = caption_corpus.JobConfig(
        images=storage.join(job.corpus, "images"),
        mrnn=storage.join(run, "mrnn"),
        out=str(tmp_path / "captions"),
        captions=job.captions,
    ).inherited()
    written = caption_corpus.main(config)
    assert written.by_status == {"ok": 25, "not_an_image": 1}
    straight = storage.read_table(config.out, schema.CAPTIONS).sort_by("image_id")
    chained = storage.read_table(storage.join(run, "captions"), schema.CAPTIONS)
    assert straight["caption"] == chained.sort_by("image_id")["caption"]


def test_another_setting_is_refused(job: pipeline.JobConfig, run: str) -> None:
    other = replace(job, captions=CaptionConfig(beam_size=3))
    with pytest.raises(ValueError, match=r"begun with another captions.beam_size: 2 before, 3 now"):
        pipeline.main(other)


def table(uri: str) -> pa.Table:
    return storage.read_table(uri, schema.REGIONS).sort_by("image_id")


def written(run: str) -> dict[str, bytes]:
    return {file: storage.read_bytes(file) for file in storage.list_files(run, recursive=True)}
