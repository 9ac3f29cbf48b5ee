"""Sentences and snippets beside their images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from vsa_ray import batches, schema, texts
from vsa_ray.vocabulary import Vocabulary


@pytest.fixture
def regions() -> pa.Table:
    features = [np.full((r, 4), r, dtype=np.float16) for r in (3, 0, 1)]
    whole = {"uri": "", "split": "train", "width": 4, "height": 4}
    rows = [
        {**whole, "image_id": name, "boxes": [], "status": status, "error": None}
        for name, status in [("a", "ok"), ("b", "missing"), ("c", "ok")]
    ]
    table = pa.Table.from_pylist(rows, schema=schema.REGIONS)
    at = table.schema.names.index("features")
    return table.set_column(at, "features", schema.nested(features, pa.float16()))


@pytest.fixture
def sentences() -> pa.Table:
    rows = [
        {"sentence_id": f"{image}#{i}", "image_id": image, "split": "train", "words": words}
        for image, i, words in [("c", 0, ["a", "dog"]), ("a", 0, ["runs"]), ("c", 1, ["zebra"])]
    ]
    return pa.Table.from_pylist(rows, schema=schema.SENTENCES)


def test_texts_come_to_their_image(regions: pa.Table, sentences: pa.Table) -> None:
    by_image = texts.group_by_image(texts.of_sentences(sentences))
    attached = texts.attach(regions, by_image)
    assert attached["image_id"].to_pylist() == ["a", "c"]
    assert attached["texts"].to_pylist() == [[["runs"]], [["a", "dog"], ["zebra"]]]
    assert attached["text_ids"].to_pylist() == [["a#0"], ["c#0", "c#1"]]
    assert attached["text_regions"].to_pylist() == [[0], [0, 0]]


def test_failed_images_and_images_without_texts_are_left_out(regions: pa.Table) -> None:
    by_image = texts.group_by_image(iter([("b", "b#0", 0, ["x"]), ("c", "c#0", 0, ["x"])]))
    assert texts.attach(regions, by_image)["image_id"].to_pylist() == ["c"]


def test_no_texts_at_all(regions: pa.Table) -> None:
    assert len(texts.attach(regions, texts.group_by_image(iter([])))) == 0


def test_features_of_regions_without_texts_can_be_left_out(regions: pa.Table) -> None:
    told = [
        ("a", "a#0", 2, ["x"]),
        ("a", "a#1", 0, ["y"]),
        ("a", "a#2", 2, ["z"]),
        ("c", "c#0", 0, []),
    ]
    attached = texts.attach(regions, texts.group_by_image(iter(told)))
    numbered = np.arange(16, dtype=np.float16).reshape(4, 4)
    at = attached.schema.names.index("features")
    attached = attached.set_column(
        at, "features", schema.nested([numbered[:3], numbered[3:]], pa.float16())
    )
    described = texts.only_described(attached)
    assert described["text_regions"].to_pylist() == [[1, 0, 1], [0]]
    assert described["texts"] == attached["texts"]
    left = schema.matrices(described["features"], 4)
    np.testing.assert_array_equal(left[0], numbered[[0, 2]])
    np.testing.assert_array_equal(left[1], numbered[3:])
    second = texts.only_described(attached.slice(1))  # a view
    np.testing.assert_array_equal(schema.matrices(second["features"], 4)[0], numbered[3:])
    assert len(texts.only_described(attached.slice(2))) == 0


def test_snippets_are_the_words_of_their_run() -> None:
    box = [0.0, 0.0, 1.0, 1.0]
    row = {
        "sentence_id": "a#0",
        "image_id": "a",
        "split": "train",
        "words": ["a", "red", "ball", "here", "outside"],
        "snippets": [
            {"region": 2, "box": box, "first": 0, "stop": 3, "score": 1.0},
            {"region": 1, "box": box, "first": 3, "stop": 4, "score": 1.0},
            {"region": 0, "box": box, "first": 4, "stop": 5, "score": 1.0},
        ],
    }
    table = pa.Table.from_pylist([row], schema=schema.SNIPPETS)
    assert list(texts.of_snippets(table)) == [
        ("a", "a#0", 2, ["a", "red", "ball"]),
        ("a", "a#0", 1, ["here"]),
    ]


def test_texts_without_a_known_word_are_left_out(sentences: pa.Table) -> None:
    vocabulary = Vocabulary(("a", "runs"), (3, 3), 3)
    known = texts.known(texts.of_sentences(sentences), vocabulary)
    assert [words for *_, words in known] == [["a", "dog"], ["runs"]]


def test_features_of_a_table(regions: pa.Table) -> None:
    ragged = batches.features(regions)
    assert ragged.lengths.tolist() == [3, 0, 1]
    assert ragged.rows.shape == (4, 4)
    assert [len(part) for part in ragged.split()] == [3, 0, 1]
    with pytest.raises(ValueError, match="did every image fail"):
        batches.features(regions.slice(1, 1))
