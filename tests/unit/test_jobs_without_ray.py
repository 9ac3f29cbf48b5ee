"""Jobs that need no Ray, from the command line to what they leave behind."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs import launch, read_corpus, train_alignment, train_mrnn
from vsa_ray import schema, storage
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.captions import CaptionConfig, CaptionRegions
from vsa_ray.config import ConfigError
from vsa_ray.corpora import ReaderConfig, SceneConfig, generate_scenes
from vsa_ray.errors import UserError
from vsa_ray.table_files import Written
from vsa_ray.vocabulary import Vocabulary, VocabularyConfig

Start = Callable[..., Any]

SCENES = ("--scenes.train", "2", "--scenes.dev", "1", "--scenes.test", "1")


def test_scenes_are_drawn_and_read(start: Start, here: Path) -> None:
    assert start("generate_scenes", "--out", "scenes", *SCENES).code == 0
    read = ("read_corpus", "--corpus", "scenes", "--out", "tables")
    assert start(*read).code == 0
    images = storage.read_table("tables/images", schema.IMAGES)
    assert sorted(images["split"].to_pylist()) == ["dev", "test", "train", "train"]
    assert len(storage.read_table("tables/sentences", schema.SENTENCES)) == 20
    made = (here / "tables" / "images" / "part-00000.parquet").stat().st_mtime_ns
    assert start(*read).code == 0  # done is done
    assert (here / "tables" / "images" / "part-00000.parquet").stat().st_mtime_ns == made

    ended = start(*read, "--reader.max-train", "1")
    assert ended.code == 2
    assert "was begun with another reader.max_train: 0 before, 1 now" in ended.err


def test_other_scenes_in_one_place_are_refused(start: Start, here: Path) -> None:
    assert start("generate_scenes", "--out", "scenes", *SCENES).code == 0
    ended = start("generate_scenes", "--out", "scenes", *SCENES, "--scenes.seed", "5")
    assert ended.code == 2
    assert re.fullmatch(r"error: scenes holds other scenes .*; give another directory\n", ended.err)


def test_a_split_that_is_needed_and_empty(here: Path) -> None:
    generate_scenes("scenes", SceneConfig(train=2, dev=0, test=1))
    job = read_corpus.JobConfig(corpus="scenes", out="tables")
    read_corpus.main(job, splits=("train", "test"))
    with pytest.raises(
        ConfigError, match=r"no sentence of the dev split \(it has 5 test, 10 train"
    ):
        read_corpus.main(job, splits=("train", "dev"))
    elsewhere = replace(job, out="others")
    with pytest.raises(ConfigError, match=r"--reader\.dev-share"):
        read_corpus.main(elsewhere, splits=("train", "dev"))
    assert not (here / "others").exists()  # so that the same --out can be used with a share
    shared = replace(elsewhere, reader=ReaderConfig(dev_share=0.5))
    read_corpus.main(shared, splits=("train", "dev", "test"))


def test_a_folder_that_is_no_corpus(start: Start, here: Path) -> None:
    (here / "notes").mkdir()
    ended = start("read_corpus", "--corpus", "notes", "--out", "tables")
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err


def test_an_output_whose_first_write_was_killed_can_be_begun(start: Start, here: Path) -> None:
    assert start("generate_scenes", "--out", "scenes", *SCENES).code == 0
    left = here / "tables" / "images" / "__job.json.0123abcd.partial"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    assert start("read_corpus", "--corpus", "scenes", "--out", "tables").code == 0


@pytest.mark.usefixtures("no_java")
def test_evaluate_measures_what_there_is(
    start: Start, run: Path, here: Path, regions: pa.Table, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ended = start("evaluate", "--run", str(run))
    assert ended.code == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics.keys() == {"split", "retrieval", "grounding", "captions"}
    assert metrics["split"] == "test"
    assert (metrics["grounding"], metrics["captions"]) == (None, None)
    assert (metrics["retrieval"]["images"], metrics["retrieval"]["sentences"]) == (2, 4)
    assert "Retrieval (2 images, 4 sentences" in caplog.text
    assert not (run / "gallery").exists()

    captions = CaptionRegions(CaptionConfig(beam_size=1), str(run / "mrnn"))(regions)
    storage.write_table(str(run / "captions"), captions)
    storage.commit(str(run / "captions"), {"rows": len(captions)})
    measured = (run / "metrics.json").read_bytes()
    assert start("evaluate", "--run", str(run), "--split", "train").code == 0
    assert (run / "metrics.json").read_bytes() == measured
    metrics = json.loads((run / "metrics-train.json").read_text())
    assert metrics["split"] == "train"
    assert metrics["retrieval"]["image_search"]["r1"] == 100.0
    assert metrics["captions"]["images"] == 2
    assert metrics["captions"]["nearest_neighbour"]["bleu1"] > metrics["captions"]["bleu1"]
    assert not (run / "gallery").exists()
    page = (run / "gallery-train" / "index.html").read_text()
    assert "dog.jpg" in page
    assert "pair.jpg" not in page  # of the test split


def test_evaluate_refuses_a_model_that_is_none(start: Start, run: Path, here: Path) -> None:
    shutil.rmtree(run / "alignment")
    shutil.copytree(run / "mrnn", run / "alignment")
    ended = start("evaluate", "--run", str(run))
    assert ended.code == 2
    assert "alignment holds MultimodalRNN, but AlignmentModel is needed" in ended.err
    assert ended.err.count("\n") == 1


def test_what_was_written_is_told_by_status(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    launch.log_written("there", Written(5, {"ok": 2, "missing": 1, "corrupt": 2}))
    launch.log_written("here", Written(1, {"ok": 1}))
    assert "there: 5 rows, failed: 2 corrupt, 1 missing" in caplog.text
    assert "here: 1 rows, all good" in caplog.text


def test_distillation_needs_detected_classes(here: Path) -> None:
    row = {"image_id": "a.jpg", "uri": "", "split": "train", "width": 9, "height": 9}
    row |= {"boxes": [[0.0, 0.0, 9.0, 9.0]], "scores": [1.0], "labels": [""]}
    row |= {"features": [[0.0]], "status": "ok", "error": None}
    storage.write_table("regions", pa.Table.from_pylist([row], schema.REGIONS))
    sentence = {"sentence_id": "0", "image_id": "a.jpg", "split": "train", "text": "a dog"}
    sentences = pa.Table.from_pylist([sentence | {"words": ["a", "dog"]}], schema.SENTENCES)
    job = train_alignment.JobConfig(
        regions="regions",
        sentences="sentences",
        out="out",
        alignment=AlignmentConfig(score="cosine", distillation=0.5),
    )
    vocabulary = Vocabulary.of(sentences, VocabularyConfig(min_count=1))
    with pytest.raises(ConfigError, match=r"distillation 0\.5 learns from .* regions has none"):
        train_alignment._labels(job, sentences, vocabulary)


def test_a_training_that_cannot_begin_leaves_its_place_free(
    here: Path, regions: pa.Table, sentences: pa.Table
) -> None:
    """Told to lower min_count, one does it for the same --out."""
    tables = {"regions": regions, "sentences": sentences}
    for name, table in tables.items():
        split = pc.replace_substring(table["split"], "test", "dev")
        tables[name] = table.set_column(table.schema.get_field_index("split"), "split", split)
    bad = pc.if_else(pc.equal(tables["regions"]["split"], "dev"), "corrupt", "ok")
    at = regions.schema.get_field_index("status")
    tables |= {
        "without_dev": regions,
        "failed": tables["regions"].set_column(at, "status", bad),
        "snippets": schema.SNIPPETS.empty_table(),
    }
    for name, table in tables.items():
        storage.write_table(name, table)
    align = train_alignment.JobConfig(
        regions="regions",
        sentences="sentences",
        out="out",
        vocabulary=VocabularyConfig(min_count=1),
    )
    write = train_mrnn.JobConfig(
        **{name: getattr(align, name) for name in ("regions", "sentences", "out", "vocabulary")},
        learn_from="images",
    )
    for job, main in ((align, train_alignment.main), (write, train_mrnn.main)):
        for change, message in (
            ({"vocabulary": VocabularyConfig(min_count=9)}, "lower min_count"),
            ({"regions": "sentences"}, "is this the right table"),
            (
                {"regions": "without_dev"},
                r"no usable image of the dev split .*\(0 images, texts for 3",
            ),
            ({"regions": "failed"}, r"no usable image of the dev split .*\(3 images, texts for 3"),
        ):
            with pytest.raises(UserError, match=message):
                main(replace(job, **change))  # type: ignore[operator]
    from_snippets = replace(write, learn_from="snippets", snippets="snippets")
    with pytest.raises(UserError, match=r"of the train split .*\(2 images, texts for 0\)"):
        train_mrnn.main(from_snippets)
    assert not (here / "out").exists()
