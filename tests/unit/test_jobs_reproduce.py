"""What a reproduction trains, where, and in which order; the jobs themselves are replaced."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import (
    detect_regions,
    extract_snippets,
    read_corpus,
    reproduce,
    train_alignment,
    train_mrnn,
)
from vsa_ray import schema, storage
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.errors import UserError
from vsa_ray.results import Decoding, Recipe
from vsa_ray.results.grounding import WITH_DETECTOR
from vsa_ray.table_files import Written

RANKS = {"r1": 1.0, "r5": 2.0, "r10": 3.0, "median_rank": 4.0}
RETRIEVAL = {"image_annotation": RANKS, "image_search": RANKS}
BOXES = {"iou50": 50.0, "pointing": 70.0}
DECODING = {
    "model": "boxes",
    "detector_weight": 0.25,
    "label_weight": 0.5,
    "area_weight": 0.0,
    "whole_image": -0.5,
    "beta": 0.125,
    "unit": 1.0,
}


class Here:
    """Runs in this process what SideBySide runs in others, and in the same order."""

    def __init__(self, at_once: int, _log_queue: object, near: str) -> None:
        assert near.startswith("/")
        self.at_once = at_once

    async def run(self, name: str, function: Callable[[], Any]) -> Any:
        assert name
        return function()


@pytest.fixture
def config(tmp_path: Path) -> reproduce.JobConfig:
    return reproduce.JobConfig(
        data=str(tmp_path / "data"),
        out=str(tmp_path / "out"),
        results=str(tmp_path / "results" / "ours.json"),
        seeds=2,
        alignment=AlignmentConfig(score="sentence_cosine", loss="softmax"),
    )


@pytest.fixture
def done(config: reproduce.JobConfig, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings of all jobs that were started, in order."""
    started: list[Any] = []

    def job(result: Any) -> Any:
        def main(settings: Any, *_: object, **__: object) -> Any:
            started.append(settings)
            return result

        return main

    def read(settings: read_corpus.JobConfig, **_: object) -> None:
        started.append(settings)
        storage.write_table(config.at("phrases"), schema.PHRASES.empty_table())

    def boxes(_self: Recipe, decoding: Decoding) -> dict[str, Any]:
        assert decoding == Decoding(**DECODING)
        return {}

    measured = {
        "choice": {"retrieval": "whole image", "grounding": "boxes"},
        "retrieval": [{"whole image": RETRIEVAL}] * 2,
        "by_loss": {"softmax": RETRIEVAL},
        "decoding": [DECODING] * 2,
        "grounding": [{WITH_DETECTOR: BOXES}] * 2,
        "chain": [{"independent words": BOXES}] * 2,
        "captions": [{"beam 7": {"bleu1": 60.0}}] * 2,
    }
    for name, result in measured.items():
        monkeypatch.setattr(Recipe, name, lambda *_, result=result: result)
    monkeypatch.setattr(Recipe, "captions_of_boxes", boxes)
    monkeypatch.setattr(read_corpus, "main", read)
    monkeypatch.setattr(detect_regions, "main", job(Written(1, {"ok": 1})))
    monkeypatch.setattr(extract_snippets, "main", job(Written(1, {"ok": 1})))
    monkeypatch.setattr(train_alignment, "main", job({"dev/mean_recall": 1.0}))
    monkeypatch.setattr(train_mrnn, "main", job({"dev/score": 1.0}))
    monkeypatch.setattr(reproduce, "_test_regions", lambda *_: {"rows": 1})
    monkeypatch.setattr(reproduce.datasets, "model_workers", lambda *_: {})
    monkeypatch.setattr(reproduce, "SideBySide", Here)
    monkeypatch.setattr(reproduce, "places", lambda _workers: 3)
    monkeypatch.setattr(reproduce.messages, "open_queue", nullcontext)
    monkeypatch.setattr(reproduce.tracking, "run", lambda *_: nullcontext())
    return started


def below(config: reproduce.JobConfig, settings: Any) -> str:
    return settings.out.removeprefix(config.at(config.recipe) + "/")


def test_what_is_trained(config: reproduce.JobConfig, done: list[Any]) -> None:
    reproduce.main(config)
    aligners = [own for own in done if isinstance(own, train_alignment.JobConfig)]
    assert [
        (below(config, own), own.alignment.regions, own.alignment.loss) for own in aligners
    ] == [
        ("seed0/alignment/all_regions", "all", "softmax"),
        ("seed0/alignment/boxes", "boxes", "softmax"),
        ("seed0/alignment/whole_image", "whole_image", "softmax"),
        ("seed1/alignment/boxes", "boxes", "softmax"),
        ("seed1/alignment/whole_image", "whole_image", "softmax"),
        ("seed0/alignment/sum_of_hinges", "all", "sum_of_hinges"),
        ("seed0/alignment/hardest_negative", "all", "hardest_negative"),
    ]
    assert [own.training.seed for own in aligners] == [0] * 3 + [1] * 2 + [0] * 2
    (snippets,) = (own for own in done if isinstance(own, extract_snippets.JobConfig))
    assert snippets.alignment == aligners[1].out
    assert (snippets.snippets.beta, snippets.snippets.detector_weight) == (0.125, 0.25)
    captioners = [own for own in done if isinstance(own, train_mrnn.JobConfig)]
    assert [(below(config, own), own.learn_from, own.snippets) for own in captioners] == [
        ("seed0/captioner/images", "images", ""),
        ("seed1/captioner/images", "images", ""),
        ("seed0/captioner/snippets", "snippets", snippets.out),
    ]


def test_data_lies_where_vsa_data_has_it(config: reproduce.JobConfig, done: list[Any]) -> None:
    reproduce.main(config)
    corpus, detecting, *_ = done
    assert corpus.corpus == f"{config.data}/data/flickr8k"
    assert corpus.reader.phrases == f"{config.data}/data/flickr30k_entities"
    assert detecting.regions.weights == f"{config.data}/weights/picodet_s/picodet_s_416_coco.onnx"


def test_results_and_page(config: reproduce.JobConfig, done: list[Any]) -> None:
    document = reproduce.main(config)
    assert done
    assert document == storage.read_json(config.results)
    assert document["retrieval"] == RETRIEVAL
    assert document["grounding"] == BOXES
    assert document["captions"] == {"bleu1": 60.0}
    assert "--config jobs/configs/ours.yaml" in document["command"]
    page = (Path(config.results).parent / "README.md").read_text()
    assert "| ours: whole image | 1.0 ± 0.0 |" in page


def test_started_again_it_trains_nothing_again(
    config: reproduce.JobConfig, done: list[Any]
) -> None:
    first = reproduce.main(config)
    started = len(done)
    assert reproduce.main(config) == first
    assert len(done) == started


def test_another_recipe_is_refused_in_its_place(
    config: reproduce.JobConfig, done: list[Any]
) -> None:
    reproduce.main(config)
    assert done
    other = replace(config, alignment=AlignmentConfig(embed_dim=7))
    with pytest.raises(UserError, match=r"was begun with another recipe.alignment"):
        reproduce.main(other)


def test_how_it_is_made_may_change(config: reproduce.JobConfig, done: list[Any]) -> None:
    first = reproduce.main(config)
    started = len(done)
    training = replace(config.alignment_training, min_workers=1, checkpoint_minutes=1.0)
    other = replace(config, at_once=7, alignment_training=training)
    assert reproduce.main(other)["retrieval"] == first["retrieval"]
    assert len(done) == started


def test_other_data_are_refused(config: reproduce.JobConfig, done: list[Any]) -> None:
    reproduce.main(config)
    assert done
    with pytest.raises(UserError, match="was begun with another data"):
        reproduce.main(replace(config, data="elsewhere"))


def test_a_page_without_what_is_no_result(config: reproduce.JobConfig, done: list[Any]) -> None:
    storage.write_json(config.results.replace("ours", "notes"), ["something else"])
    reproduce.main(config)
    assert done
    page = (Path(config.results).parent / "README.md").read_text()
    assert "ours: whole image" in page
    assert "notes" not in page


def test_the_papers_recipe_stands_first(tmp_path: Path) -> None:
    shared = {
        "seconds": {},
        "at_once": 1,
        "seeds": [0],
        "command": "",
        "commit": "",
        "machine": "",
        "config": "",
    }
    rows = {"retrieval_rows": {"all regions": {"mean": RETRIEVAL}}}
    for name in ("flickr8k", "flickr8k_paper"):
        storage.write_json(str(tmp_path / f"{name}.json"), {**shared, **rows})
    page = Path(reproduce.write_page(str(tmp_path / "flickr8k.json"))).read_text()
    assert page.index("| flickr8k_paper: all regions") < page.index("| flickr8k: all regions")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seeds", 0, "--seeds must be >= 1, got 0"),
        ("at_once", -1, "--at-once must be >= 0, got -1"),
        ("results", "r.txt", "must be a .json file"),
    ],
)
def test_settings_that_cannot_work(
    config: reproduce.JobConfig, field: str, value: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        replace(config, **{field: value}).check()


def test_data_that_is_not_there(config: reproduce.JobConfig) -> None:
    with pytest.raises(UserError, match=r"--data: the corpus .*flickr8k does not exist"):
        config.check()
