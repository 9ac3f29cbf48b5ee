"""Jobs from the command line, up to the moment that Ray would start."""

from __future__ import annotations

import importlib
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from jobs import caption_corpus, evaluate, launch, pipeline, reproduce
from jobs.settings import OTHERS, PATHS, Settings
from vsa_ray import checkpoints, outputs, schema, storage
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.batches import DETECTION_DIM
from vsa_ray.config import flatten, parse
from vsa_ray.regions import RegionConfig
from vsa_ray.snippets import SnippetConfig
from vsa_ray.vocabulary import Vocabulary

CONFIGS = Path(launch.__file__).with_name("configs")

NEEDED = {
    "caption_corpus": ["--regions-table", "r", "--mrnn", "m", "--out", "o"],
    "detect_regions": ["--images", "i", "--out", "o"],
    "evaluate": ["--run", "r"],
    "extract_snippets": [*("--regions", "r", "--sentences", "s", "--alignment", "a", "--out", "o")],
    "generate_scenes": ["--out", "o"],
    "pipeline": ["--corpus", "c", "--out", "o"],
    "read_corpus": ["--corpus", "c", "--out", "o"],
    "train_alignment": ["--regions", "r", "--sentences", "s", "--out", "o"],
    "train_mrnn": ["--regions", "r", "--sentences", "s", "--snippets", "n", "--out", "o"],
    "reproduce": ["--data", "d", "--out", "o", "--results", "r.json"],
    "tune": ["--regions", "r", "--sentences", "s", "--out", "o"],
}
"""Every job, with the flags that it cannot do without."""

Start = Callable[..., Any]

every_job = pytest.mark.parametrize("name", NEEDED)


def test_these_are_all_jobs() -> None:
    files = {path.stem for path in Path(launch.__file__).parent.glob("*.py")}
    assert files == {*NEEDED, "__init__", "launch", "recipe_parts", "settings", "side_by_side"}


@every_job
def test_help_says_what_the_job_does_and_takes(name: str, start: Start) -> None:
    module = importlib.import_module(f"jobs.{name}")
    ended = start(name, "--help")
    assert ended.code == 0
    assert f"usage: python -m jobs.{name}" in ended.out
    shown = " ".join(ended.out.replace("│", " ").split())
    assert " ".join(module.__doc__.split("\n")[0].split()) in shown
    assert "--config FILE" in shown
    for field in fields(module.JobConfig):
        assert f"--{field.name.replace('_', '-')}" in shown


@every_job
def test_what_is_printed_gives_the_same_settings(name: str, start: Start, tmp_path: Path) -> None:
    ended = start(name, *NEEDED[name], "--print-config")
    assert (ended.code, ended.err) == (0, "")
    (tmp_path / "printed.yaml").write_text(ended.out)
    settings = importlib.import_module(f"jobs.{name}").JobConfig
    printed = ["--config", str(tmp_path / "printed.yaml")]
    assert parse(settings, description="", argv=printed) == parse(
        settings, description="", argv=NEEDED[name]
    )


RECIPES = [file for file in sorted(CONFIGS.glob("*.yaml")) if file.stem != "demo_scenes"]

TAKES = {
    "caption_corpus": {"loading", "regions", "captions"},
    "detect_regions": {"loading", "regions"},
    "evaluate": {"snippets"},
    "extract_snippets": {"snippets"},
    "pipeline": {field.name for field in fields(Settings)},
    "read_corpus": {"reader"},
    "train_alignment": {"vocabulary", "alignment", "alignment_training"},
    "train_mrnn": {"vocabulary", "captioner", "captioner_training"},
    "reproduce": {field.name for field in fields(Settings)},
    "tune": {"vocabulary", "alignment", "alignment_training"},
}
"""Of a recipe, by jobs: all but the one that draws scenes."""


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
@pytest.mark.parametrize("name", TAKES)
def test_a_recipe_fits_every_job(name: str, file: Path, start: Start, tmp_path: Path) -> None:
    ended = start(name, "--config", str(file), *NEEDED[name], "--print-config")
    assert (ended.code, ended.err) == (0, "")
    printed = yaml.safe_load(ended.out)
    for key, value in flatten(yaml.safe_load(file.read_text())):
        group, _, setting = key.partition(".")
        here = group if name in ("pipeline", "reproduce") else group.split("_")[-1]
        if group in TAKES[name] and "${" not in str(value):
            assert printed[here][setting] == value, key
    # What is printed is the job's own file.
    (tmp_path / "printed.yaml").write_text(ended.out)
    again = start(name, "--config", str(tmp_path / "printed.yaml"), "--print-config")
    assert again.out == ended.out


def test_the_scenes_of_the_demo_fit_their_job(start: Start) -> None:
    file = CONFIGS / "demo_scenes.yaml"
    ended = start("generate_scenes", "--config", str(file), "--out", "o", "--print-config")
    assert yaml.safe_load(ended.out) == {"out": "o", **yaml.safe_load(file.read_text())}


def test_all_settings_of_a_pipeline_fit_a_stage(start: Start, tmp_path: Path) -> None:
    """But for its paths, which are others."""
    flags = ("--captioner-training.epochs", "7", "--learn-from", "images")
    printed = start("pipeline", *NEEDED["pipeline"], *flags, "--print-config").out
    (tmp_path / "printed.yaml").write_text(printed)
    config = ("--config", str(tmp_path / "printed.yaml"))
    learn = start("train_mrnn", *config, *NEEDED["train_mrnn"], "--print-config").out
    assert "learn_from: images" in learn
    assert "epochs: 7" in learn
    ended = start("train_mrnn", *config, *NEEDED["train_mrnn"][:-2])
    assert ended.code == 2
    assert "--out" in ended.err


@pytest.mark.parametrize("name", TAKES)
def test_what_no_job_knows_is_refused(name: str, start: Start, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("alignment: {embed_dmi: 3}\n")
    ended = start(name, "--config", str(tmp_path / "recipe.yaml"), *NEEDED[name])
    assert ended.code == 2
    assert ended.err.endswith(
        "there is no setting alignment.embed_dmi; did you mean alignment.embed_dim?\n"
    )


def test_these_are_all_settings_of_recipes() -> None:
    own = {*fields(pipeline.JobConfig), *fields(reproduce.JobConfig)}
    assert {one.name for one in own} == {one.name for one in fields(Settings)} | PATHS | OTHERS


@every_job
def test_a_job_without_its_flags_names_them(name: str, start: Start) -> None:
    ended = start(name)
    assert ended.code == 2
    for flag in NEEDED[name][::2]:
        if flag not in ("--regions-table", "--snippets"):  # needed or not, depending on others
            assert flag in ended.err


@pytest.fixture
def tables(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: finished regions, sentences, images, snippets; models; and more."""
    for name in ("snippets", "images"):
        storage.write_table(str(run / name), pa.table({"image_id": ["a"]}))
        storage.commit(str(run / name), {})
    storage.write_table(str(run / "begun"), pa.table({"image_id": ["a"]}))
    (run / "empty").mkdir()
    (run / "photo.jpg").write_bytes(b"")
    said = storage.read_table(str(run / "sentences"), schema.SENTENCES)
    dev = said.slice(0, 1).set_column(2, "split", pa.array(["dev"]))
    for name, table in {"sentences": pa.concat_tables([said, dev]), "without_dev": said}.items():
        storage.write_table(str(run / name), table)
        storage.commit(str(run / name), {})
    wide = storage.read_table(str(run / "regions"), schema.REGIONS).slice(0, 1)
    at = wide.schema.names.index("features")
    features = schema.nested([np.zeros((2, 9))], pa.float16())
    storage.write_table(str(run / "wide"), wide.set_column(at, "features", features))
    storage.commit(str(run / "wide"), {})
    shutil.copytree(run / "mrnn", run / "another_mrnn")
    learned = {"features.detector": "onnx", "features.weights": "lost.onnx", "features.maps": 3}
    storage.commit(str(run / "another_mrnn"), {"made_from": learned})
    config = AlignmentConfig(embed_dim=2, text="words", detections=True)
    seeing = AlignmentModel(config, feature_dim=6 + DETECTION_DIM, vocabulary_size=2)
    checkpoints.save(str(run / "seeing"), seeing, Vocabulary(("dog",), (5,), 5))
    storage.commit(str(run / "seeing"), {})
    shutil.copytree(run / "regions", run / "made_otherwise")
    storage.commit(str(run / "made_otherwise"), {"made_from": {"regions.maps": 1}})
    (run / "README.md").write_text("# A project of one's own")
    monkeypatch.chdir(run)
    return run


DISTILLED = ("--alignment.score", "cosine", "--alignment.distillation", "0.5")
ON_REGIONS = ("--regions", "regions", "--sentences", "sentences", "--out", "o")
BOTH = ("--snippets", "snippets", *ON_REGIONS)
ALIGNED = ("--alignment", "alignment", *ON_REGIONS)
CAPTIONED = ("--regions-table", "regions", "--mrnn", "mrnn", "--out", "o")
ONNX = ("--regions.detector", "onnx")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("caption_corpus", CAPTIONED),
        ("caption_corpus", ("--images", "images", "--mrnn", "mrnn", "--out", "o")),
        ("detect_regions", ("--images", "images", "--out", "o")),
        ("detect_regions", ("--images", ".", "--out", "o")),
        ("extract_snippets", ALIGNED),
        ("extract_snippets", (*ALIGNED, "--alignment", "seeing")),
        ("pipeline", ("--corpus", ".", "--out", "o")),
        ("train_alignment", ON_REGIONS),
        ("train_mrnn", BOTH),
        ("train_mrnn", (*ON_REGIONS, "--learn-from", "images")),
        ("tune", ON_REGIONS),
    ],
)
@pytest.mark.usefixtures("tables")
def test_what_a_job_needs_is_enough_to_start_ray(
    name: str, flags: tuple[str, ...], start: Start
) -> None:
    assert start(name, *flags).code == "Ray"


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("caption_corpus", CAPTIONED),
        ("caption_corpus", ("--images", "images", "--mrnn", "mrnn", "--out", "o")),
        ("detect_regions", ("--images", "images", "--out", "o")),
        ("extract_snippets", ALIGNED),
    ],
)
@pytest.mark.usefixtures("tables")
def test_a_job_that_has_finished_needs_no_ray(
    name: str, flags: tuple[str, ...], start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    job = importlib.import_module(f"jobs.{name}")
    job._output(parse(job.JobConfig, description="", argv=flags)).commit(rows=3, by_status={})
    assert start(name, *flags, "--batch-size", "2").code == 0
    assert "o: 3 rows" in caplog.text


def missing_and_unfinished(name: str, flags: tuple[str, ...], *inputs: str) -> list[Any]:
    """Each input replaced by one that is not there, and by one whose job has not ended."""
    cases = []
    for flag in inputs:
        for uri, problem in (("lost", "does not exist"), ("begun", "is not finished")):
            expected = rf"{flag} \S*{uri} {problem}: run the job that makes it first"
            cases.append((name, (*flags, flag, uri), expected))
    return cases


MODEL = "holds no trained model: run the job that makes it first"

MISTAKES = [
    *missing_and_unfinished("train_alignment", ON_REGIONS, "--regions", "--sentences"),
    *missing_and_unfinished("tune", ON_REGIONS, "--regions", "--sentences"),
    *missing_and_unfinished("train_mrnn", BOTH, "--regions", "--sentences", "--snippets"),
    *missing_and_unfinished("extract_snippets", ALIGNED, "--regions", "--sentences"),
    *missing_and_unfinished("caption_corpus", CAPTIONED, "--regions-table"),
    ("extract_snippets", (*ALIGNED, "--alignment", "empty"), f"--alignment empty {MODEL}"),
    ("caption_corpus", (*CAPTIONED, "--mrnn", "lost"), f"--mrnn lost {MODEL}"),
    (
        "extract_snippets",
        (*ALIGNED, "--alignment", "mrnn"),
        "--alignment mrnn holds MultimodalRNN, but AlignmentModel is needed; give an "
        "output of jobs.train_alignment",
    ),
    (
        "caption_corpus",
        (*CAPTIONED, "--mrnn", "alignment"),
        "--mrnn alignment holds AlignmentModel, but MultimodalRNN is needed",
    ),
    (
        "caption_corpus",
        (*CAPTIONED, "--regions-table", "wide"),
        "--mrnn mrnn takes features of width 6, but those of wide have width 9",
    ),
    (
        "caption_corpus",
        (*CAPTIONED, "--mrnn", "another_mrnn", "--regions-table", "made_otherwise"),
        "made_otherwise was made with maps 1, but --mrnn another_mrnn was trained on 3; use",
    ),
    (
        "reproduce",
        ("--data", ".", "--out", "o", "--results", "r.json"),
        "would overwrite ./README.md, which is not a page of results; choose another folder",
    ),
    (  # regions are made as those that the model learned from
        "caption_corpus",
        ("--images", ".", "--mrnn", "another_mrnn", "--out", "o"),
        "regions.weights: lost.onnx does not exist",
    ),
    (
        "tune",
        (*ON_REGIONS, "--training.epochs", "2"),
        "--search.grace-epochs 3 is more than --training.epochs 2; make it smaller",
    ),
    (
        "extract_snippets",
        (*ALIGNED, "--regions", "wide"),
        "--alignment alignment takes features of width 6, but those of wide have width 9",
    ),
    (
        "extract_snippets",
        (*ALIGNED, "--alignment", "seeing", "--regions", "wide"),
        "--alignment seeing takes features of width 6, but those of wide have width 9",
    ),
    *(
        (
            name,
            (*flags, "--sentences", "without_dev"),
            r"--sentences \S*without_dev has no sentence of the dev split "
            r"\(it has 3 train, 5 test\); add .* --reader.dev-share 0.1",
        )
        for name, flags in [("train_alignment", ON_REGIONS), ("train_mrnn", BOTH)]
    ),
    ("tune", (*ON_REGIONS, "--sentences", "without_dev"), "has no sentence of the dev split"),
    (
        "train_alignment",
        (*ON_REGIONS, "--regions", "photo.jpg"),
        "--regions photo.jpg is a file; a table is a directory",
    ),
    *(
        (
            name,
            ("--images", "photo.jpg", "--out", "o", *more),
            "--images photo.jpg is a file; give the directory that holds it",
        )
        for name, more in [("detect_regions", ()), ("caption_corpus", ("--mrnn", "mrnn"))]
    ),
    ("read_corpus", ("--corpus", "photo.jpg", "--out", "o"), "--corpus photo.jpg is a file"),
    (
        "evaluate",
        ("--run", ".", "--split", "tset"),
        r"--split tset: no image of \./regions is in it; there are: test, train",
    ),
    ("evaluate", ("--run", ".", "--gallery-images", "-1"), "--gallery-images must be >= 0, got -1"),
    (
        "pipeline",
        ("--corpus", ".", "--out", "o", "--gallery-images", "-1"),
        "--gallery-images must be >= 0, got -1",
    ),
    (
        "pipeline",
        ("--corpus", ".", "--out", "o", *DISTILLED),
        r"--alignment.distillation 0\.5 .* --regions.detector selective-search has none",
    ),
    ("caption_corpus", (*CAPTIONED, "--images", "."), "give either --images or --regions-table"),
    (
        "caption_corpus",
        ("--mrnn", "mrnn", "--out", "o"),
        "give either --images or --regions-table",
    ),
    (
        "caption_corpus",
        ("--images", "lost", "--mrnn", "mrnn", "--out", "o"),
        "--images lost does not exist",
    ),
    ("train_mrnn", ON_REGIONS, "--learn-from both needs --snippets"),
    (
        "train_mrnn",
        (*ON_REGIONS, "--learn-from", "snippets"),
        "--learn-from snippets needs --snippets",
    ),
    ("detect_regions", ("--images", "lost", "--out", "o"), "--images lost does not exist"),
    (
        "detect_regions",
        ("--images", "images", "--out", "o", "--batch-size", "0"),
        "--batch-size must be >= 1, got 0",
    ),
    ("detect_regions", ("--images", "images", "--out", "o", *ONNX), "needs regions.weights"),
    ("pipeline", ("--corpus", ".", "--out", "o", *ONNX), "needs regions.weights"),
    ("pipeline", ("--corpus", "lost", "--out", "o"), "--corpus lost does not exist"),
    ("read_corpus", ("--corpus", "lost", "--out", "o"), "--corpus lost does not exist"),
    ("evaluate", ("--run", "lost"), "the table lost/regions does not exist"),
    ("evaluate", ("--run", "https://here/run"), "scheme 'https' is not known"),
    (
        "train_alignment",
        (*ON_REGIONS, "--regions", "s3://key:secret@bucket/regions"),
        "credentials and endpoints do not belong in a URI",
    ),
    ("pipeline", ("--config", "lost.yaml"), "--config lost.yaml: No such file or directory"),
]


@pytest.mark.parametrize(("name", "flags", "message"), MISTAKES)
@pytest.mark.usefixtures("tables")
def test_mistakes_end_in_one_line_before_ray_starts(
    name: str, flags: tuple[str, ...], message: str, start: Start
) -> None:
    last_of_each = dict(zip(flags[::2], flags[1::2], strict=True))
    ended = start(name, *(text for pair in last_of_each.items() for text in pair))
    assert ended.code == 2
    assert re.search(rf"^error: .*{message}", ended.err)
    assert ended.err.count("\n") == 1


@pytest.mark.usefixtures("tables")
def test_regions_are_as_the_models_but_for_what_is_given(start: Start) -> None:
    def regions(*flags: str) -> RegionConfig:
        argv = ["--images", ".", "--mrnn", "another_mrnn", "--out", "o", *flags]
        return parse(caption_corpus.JobConfig, description="", argv=argv).regions

    learned = RegionConfig(detector="onnx", weights="lost.onnx", maps=3)
    assert regions() == learned
    assert regions("--regions.maps", "2") == replace(learned, maps=2)
    # Given, though it is the default.
    typed = ("--regions.detector", "selective-search")
    assert regions(*typed) == replace(learned, detector="selective-search")
    Path("recipe.yaml").write_text("regions: {maps: 1}\n")
    assert regions("--config", "recipe.yaml") == replace(learned, maps=1)
    flags = ("--images", ".", "--mrnn", "another_mrnn", "--out", "o")
    assert start("caption_corpus", *flags, *typed).code == "Ray"  # it needs no weights


@pytest.mark.usefixtures("tables")
def test_snippets_are_as_the_runs_but_for_what_is_given() -> None:
    def snippets(*flags: str) -> SnippetConfig:
        argv = ["--run", ".", *flags]
        return parse(evaluate.JobConfig, description="", argv=argv).snippets

    assert snippets() == SnippetConfig()  # the run does not know
    made = SnippetConfig(beta=0.1, detector_weight=0.2, min_words=2)
    origin = outputs.origin("extract_snippets", {"alignment": "alignment"}, snippets=made)
    storage.commit("snippets", {"made_from": origin})
    assert snippets() == made
    assert snippets("--snippets.beta", "1.0") == replace(made, beta=1.0)
    Path("recipe.yaml").write_text("snippets: {min_words: 1}\n")
    assert snippets("--config", "recipe.yaml") == replace(made, min_words=1)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train_alignment", ("--training.batch-size", "1"), "at least 2 images per worker"),
        ("train_alignment", ("--training.optimizer", "adagrad"), "invalid choice 'adagrad'"),
        ("train_mrnn", ("--captioner.dropout", "1"), r"dropout must be in [0, 1), got 1.0"),
        ("tune", ("--search.margin", "2", "1"), "margin must be two numbers, 0 < low < high"),
        ("tune", ("--search.seed", "-1"), "SearchConfig.seed must be in [0, 2**32), got -1"),
        (
            "pipeline",
            ("--snippets.beta", "-1"),
            "SnippetConfig.beta must be finite and >= 0, got -1.0",
        ),
        ("pipeline", ("--captions.beam-size", "x"), "--captions.beam-size"),
        ("pipeline", ("--captoins.beam-size", "3"), "--captoins.beam-size"),
    ],
)
def test_wrong_values_are_named(
    name: str, flags: tuple[str, ...], message: str, start: Start
) -> None:
    ended = start(name, *NEEDED[name], *flags)
    assert ended.code == 2
    assert message in " ".join(ended.err.replace("│", " ").split())


@every_job
def test_every_setting_says_what_it_is(name: str, start: Start) -> None:
    shown = start(name, "--help").out
    for option in shown.split("\n│ --")[1:]:
        words = " ".join(option.replace("│", " ").split())
        flag, text = re.match(r"(\S+)(?: \{.*?\}| [A-Z]+)*(.*)", words).groups()  # type: ignore[union-attr]
        assert re.match(r" [^(]+\((default|required)", text), f"--{flag} says nothing: {words}"


def test_changed_settings_come_back_from_what_is_printed(start: Start, tmp_path: Path) -> None:
    flags = ["--search.margin", "0.1", "0.2", "--search.embed-dim", "8", "16", "32"]
    flags += ["--training.learning-rate", "1e-5", "--alignment.loss", "softmax"]
    ended = start("tune", *NEEDED["tune"], *flags, "--print-config")
    (tmp_path / "printed.yaml").write_text(ended.out)
    settings = importlib.import_module("jobs.tune").JobConfig
    printed = parse(settings, description="", argv=["--config", str(tmp_path / "printed.yaml")])
    assert printed.search.embed_dim == (8, 16, 32)
    assert printed == parse(settings, description="", argv=[*NEEDED["tune"], *flags])


def test_a_setting_without_a_value_in_a_file_keeps_its_default(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("out: there\nscenes:\n  train:\n  seed: 3\n")
    settings = importlib.import_module("jobs.generate_scenes").JobConfig
    config = parse(settings, description="", argv=["--config", str(tmp_path / "job.yaml")])
    assert config == settings(out="there", scenes=type(settings(out="").scenes)(seed=3))
