"""Boxes that people drew, and what is written for them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from vsa_ray import evaluation, schema
from vsa_ray.checkpoints import Aligner

LEFT, RIGHT = [0, 0, 50, 100], [50, 0, 100, 100]


def row(words: str, *phrases: tuple[int, int, list[list[int]]], image: str = "pair.jpg") -> object:
    return {
        "sentence_id": f"{image}#{words}",
        "image_id": image,
        "split": "test",
        "words": words.split(),
        "width": 100,
        "height": 200,
        "phrases": [{"first": f, "stop": s, "boxes": boxes} for f, s, boxes in phrases],
    }


@pytest.fixture
def phrases() -> pa.Table:
    rows = [
        row("a dog runs after a ball", (0, 2, [LEFT]), (4, 6, [RIGHT])),
        row("two animals and the red toy", (0, 2, [LEFT, RIGHT]), (3, 6, [RIGHT])),
        row("nothing", image="plain.jpg"),
    ]
    return pa.Table.from_pylist(rows, schema=schema.PHRASES)


def test_what_people_said_of_each_box(phrases: pa.Table) -> None:
    boxes, said = evaluation.region_references(phrases)
    assert boxes.to_pylist() == [
        {"image_id": "pair.jpg", "boxes": [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5]]}
    ]
    assert said == {("pair.jpg", 0): ["a dog"], ("pair.jpg", 1): ["a ball", "the red toy"]}


@pytest.mark.usefixtures("no_java")
def test_each_box_is_scored_against_all_that_was_said_of_it(phrases: pa.Table) -> None:
    _, said = evaluation.region_references(phrases)
    written = {("pair.jpg", 0): "a dog", ("pair.jpg", 1): "a toy"}
    found = evaluation.region_captioning(written, said)
    assert (found["boxes"], found["words"]) == (2, 2.0)
    assert found["bleu1"] == pytest.approx(100.0)
    wrong = {("pair.jpg", 0): "a toy", ("pair.jpg", 1): "a dog"}
    assert evaluation.region_captioning(wrong, said)["bleu1"] == pytest.approx(50.0)


@pytest.mark.usefixtures("no_java")
def test_a_box_of_an_image_that_failed_does_not_count(phrases: pa.Table) -> None:
    _, said = evaluation.region_references(phrases)
    assert evaluation.region_captioning({("pair.jpg", 1): "a ball"}, said)["boxes"] == 1


def test_nearest_snippets(aligner: Aligner) -> None:
    """A region's number `f` says how well word `f` fits it: see conftest.py."""
    told = {
        "words": ["a", "dog", "runs", "a", "red", "ball"],
        "snippets": [
            {"region": 1, "first": 0, "stop": 3},  # a dog runs
            {"region": 2, "first": 3, "stop": 6},  # a red ball
            {"region": 0, "first": 1, "stop": 2},  # of the whole image
        ],
    }
    snippets = pa.Table.from_pylist([told, told], schema=schema.SNIPPETS)
    #                    END a  dog ball red runs
    features = np.array([[0, 0, 3.0, 0, 1, 1], [0, 0, 0, 0, 4.0, 0]], np.float32)
    assert evaluation.nearest_snippets(aligner, features, snippets) == ["a dog runs", "a red ball"]
