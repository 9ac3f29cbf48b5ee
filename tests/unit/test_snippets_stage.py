"""Sentences of real images cut into snippets: words that are not known, runs, boxes, rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.extract_snippets import AlignTexts
from vsa_ray import batches, schema, texts
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner
from vsa_ray.datasets import guard
from vsa_ray.snippets import ExtractSnippets, Floats, Snippet, SnippetConfig, align, word_scores

WHOLE, LEFT, RIGHT = 0, 1, 2  # regions of pair.jpg, see conftest.py
A_DOG_RUNS_A_RED_BALL = ["a", "dog", "runs", "a", "red", "ball"]


@pytest.fixture
def pair(regions: pa.Table) -> pa.Table:
    """The image of a dog on its left, a red ball on its right."""
    return regions.slice(regions["image_id"].to_pylist().index("pair.jpg"), 1)


def cut(aligner: Aligner, image: pa.Table, words: list[str], **config: float) -> list[Snippet]:
    settings = SnippetConfig(**config)  # type: ignore[arg-type]
    (snippets,) = align(aligner, settings, *seen(image), [words])
    return snippets


def seen(image: pa.Table) -> tuple[torch.Tensor, Floats]:
    """Features and confidence of the regions of one image."""
    return batches.features(image).rows, np.array(image["scores"][0].as_py(), np.float32)


def test_neighbours_join_into_runs(aligner: Aligner, pair: pa.Table) -> None:
    # Each "a" alone fits the whole image, and so does "ball".
    assert cut(aligner, pair, A_DOG_RUNS_A_RED_BALL, beta=1.5) == [
        Snippet(LEFT, 0, 3, pytest.approx((0 + 4 + 3) / 3)),
        Snippet(RIGHT, 3, 6, pytest.approx((0 + 3 + 4) / 3)),
    ]


def test_without_beta_every_word_is_on_its_own(aligner: Aligner, pair: pa.Table) -> None:
    assert cut(aligner, pair, A_DOG_RUNS_A_RED_BALL, beta=0.0) == [
        Snippet(WHOLE, 0, 1, 1.0),
        Snippet(LEFT, 1, 3, 3.5),
        Snippet(WHOLE, 3, 4, 1.0),
        Snippet(RIGHT, 4, 5, 3.0),
        Snippet(WHOLE, 5, 6, 4.5),
    ]


def test_short_runs_are_not_kept(aligner: Aligner, pair: pa.Table) -> None:
    kept = cut(aligner, pair, A_DOG_RUNS_A_RED_BALL, beta=0.0, min_words=2)
    assert kept == [Snippet(LEFT, 1, 3, 3.5)]


def test_word_scores(aligner: Aligner, regions: pa.Table) -> None:
    features_RF = batches.features(regions.slice(2, 1)).rows
    sentences = Ragged.of([np.array([2, 3]), np.array([], dtype=np.int64)])
    dog_ball, nothing = word_scores(aligner.model, features_RF, sentences)
    assert dog_ball.tolist() == [[1.5, 4.0, 0.0], [4.5, 0.0, 4.0]]
    assert nothing.shape == (0, 3)


def test_a_model_that_sees_boxes_alone_puts_no_word_on_the_whole_image(
    aligner: Aligner, pair: pa.Table
) -> None:
    aligner.model.config = dataclasses.replace(aligner.model.config, regions="boxes")
    snippets = cut(aligner, pair, A_DOG_RUNS_A_RED_BALL, beta=0.0)
    assert [(s.region, s.first, s.stop) for s in snippets] == [(LEFT, 0, 3), (RIGHT, 3, 6)]


def test_the_detectors_confidence_can_decide(aligner: Aligner, pair: pa.Table) -> None:
    # 0 for the whole image, log 0.9 and log 0.8 for the boxes, times the weight.
    assert cut(aligner, pair, ["red"], beta=0.0) == [Snippet(RIGHT, 0, 1, 3.0)]
    words = ["dog"]  # 1.5 on the whole image, 4 on the left
    assert cut(aligner, pair, words, beta=0.0, detector_weight=20.0) == [Snippet(LEFT, 0, 1, 4.0)]
    assert cut(aligner, pair, words, beta=0.0, detector_weight=30.0) == [Snippet(WHOLE, 0, 1, 1.5)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dog", "zebra", "runs"], [Snippet(LEFT, 0, 3, 3.5)]),
        (["dog", "zebra", "red"], [Snippet(LEFT, 0, 1, 4.0), Snippet(RIGHT, 2, 3, 3.0)]),
        (["zebra", "dog", "zebra"], [Snippet(LEFT, 1, 2, 4.0)]),
        (["red"], [Snippet(RIGHT, 0, 1, 3.0)]),
        (["zebra"], []),
        ([], []),
    ],
)
def test_words_that_are_not_known(
    words: list[str], expected: list[Snippet], aligner: Aligner, pair: pa.Table
) -> None:
    assert cut(aligner, pair, words) == expected


def test_sentences_are_cut_alike_alone_and_together(aligner: Aligner, pair: pa.Table) -> None:
    sentences = [A_DOG_RUNS_A_RED_BALL, ["red"], [], ["dog", "zebra", "red"]]
    together = align(aligner, SnippetConfig(), *seen(pair), sentences)
    assert together == [cut(aligner, pair, words) for words in sentences]


def test_an_image_without_sentences(aligner: Aligner, pair: pa.Table) -> None:
    assert align(aligner, SnippetConfig(), *seen(pair), []) == []


@pytest.fixture
def stage(run: Path) -> ExtractSnippets:
    return ExtractSnippets(SnippetConfig(beta=1.5), str(run / "alignment"))


@pytest.fixture
def images(regions: pa.Table, sentences: pa.Table) -> pa.Table:
    return texts.attach(regions, texts.group_by_image(texts.of_sentences(sentences)))


def test_every_sentence_of_a_good_image_becomes_one_row(
    stage: ExtractSnippets, images: pa.Table, sentences: pa.Table
) -> None:
    snippets = stage(images)
    assert snippets.schema == schema.SNIPPETS
    expected = [
        {name: row[name] for name in ("sentence_id", "image_id", "split", "words")}
        for row in sentences.to_pylist()
        if row["image_id"] != "broken.jpg"
    ]
    assert snippets.drop_columns(["snippets"]).to_pylist() == expected


def test_boxes_are_those_of_the_regions(
    stage: ExtractSnippets, images: pa.Table, regions: pa.Table
) -> None:
    boxes = dict(zip(*(regions[name].to_pylist() for name in ("image_id", "boxes")), strict=True))
    rows = stage(images).to_pylist()
    found = {row["sentence_id"]: row["snippets"] for row in rows}
    assert [s["region"] for s in found["pair.jpg#0"]] == [LEFT, RIGHT]
    assert found["plain.jpg#1"] == []  # "zebra"
    for row in rows:
        for snippet in row["snippets"]:
            assert snippet["box"] == boxes[row["image_id"]][snippet["region"]]


def test_snippets_are_texts_to_learn_from(stage: ExtractSnippets, images: pa.Table) -> None:
    learned = [text for text in texts.of_snippets(stage(images)) if text[1] == "pair.jpg#0"]
    assert learned == [
        ("pair.jpg", "pair.jpg#0", LEFT, ["a", "dog", "runs"]),
        ("pair.jpg", "pair.jpg#0", RIGHT, ["a", "red", "ball"]),
    ]


def test_sentences_of_images_that_ended_the_process(run: Path, images: pa.Table) -> None:
    """They are rows without snippets, and the others are as they would be."""
    stage = AlignTexts(SnippetConfig(), str(run / "alignment"), images.select(texts.TEXTS.names))
    regions = images.select(schema.REGIONS.names)
    whole = stage(regions).to_pylist()
    first = images["image_id"][0].as_py()
    crashed = guard.failed(regions.slice(0, 1), "AlignTexts: its process died 3 times")
    assert stage(crashed).schema == schema.SNIPPETS
    assert stage(crashed).to_pylist() == [
        {**row, "snippets": []} for row in whole if row["image_id"] == first
    ]
    before = guard.failed(regions.slice(0, 1), "DetectRegions: its process died 3 times")
    assert len(stage(before)) == 0  # such an image has no row of sentences to begin with
