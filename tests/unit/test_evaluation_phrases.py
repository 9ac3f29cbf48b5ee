"""Phrases that are to find their box: what is asked, and who answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vsa_ray import evaluation, schema
from vsa_ray.alignment import LabelWords
from vsa_ray.checkpoints import Aligner
from vsa_ray.evaluation import Hints
from vsa_ray.snippets import SnippetConfig

LEFT, RIGHT, WHOLE = ([0, 0, 100, 100], [100, 0, 200, 100], [0, 0, 200, 100])


@pytest.fixture
def phrases() -> pa.Table:
    """Boxes that people drew, on copies twice as large."""
    whole = {"split": "test", "width": 200, "height": 100}
    rows = [
        {
            **whole,
            "sentence_id": "pair.jpg#0",
            "image_id": "pair.jpg",
            "words": ["a", "dog", "runs", "a", "red", "ball"],
            "phrases": [
                {"first": 0, "stop": 2, "boxes": [LEFT]},
                {"first": 3, "stop": 6, "boxes": [RIGHT]},
                {"first": 5, "stop": 6, "boxes": [RIGHT]},  # though the whole image fits it better
                {"first": 2, "stop": 3, "boxes": [RIGHT]},  # wrong: what runs is on the left
            ],
        },
        {
            **whole,
            "sentence_id": "plain.jpg#0",
            "image_id": "plain.jpg",
            "words": ["a", "ball"],
            "phrases": [{"first": 0, "stop": 2, "boxes": [WHOLE]}],
        },
        {
            **whole,
            "sentence_id": "pair.jpg#1",
            "image_id": "pair.jpg",
            "words": ["zebra", "dog", "zebra"],
            "phrases": [
                {"first": 0, "stop": 1, "boxes": [WHOLE]},  # no word of it is known
                {"first": 1, "stop": 3, "boxes": [RIGHT, LEFT]},
            ],
        },
        {
            **whole,
            "sentence_id": "plain.jpg#1",
            "image_id": "plain.jpg",
            "words": ["zebra"],
            "phrases": [{"first": 0, "stop": 1, "boxes": [WHOLE]}],
        },
        {
            **whole,
            "sentence_id": "broken.jpg#0",
            "image_id": "broken.jpg",
            "words": ["a", "dog"],
            "phrases": [{"first": 0, "stop": 2, "boxes": [WHOLE]}],
        },
    ]
    return pa.Table.from_pylist(rows, schema=schema.PHRASES)


def test_grounding_of_a_hand_made_picture(
    regions: pa.Table, phrases: pa.Table, aligner: Aligner
) -> None:
    found = evaluation.grounding(aligner, regions, phrases, SnippetConfig())
    assert found["phrases"] == 9
    assert found["answered"] == 6  # not: two of unknown words, one of the broken image
    assert found["iou50"] == pytest.approx(100 * 5 / 9)
    assert found["pointing"] == pytest.approx(100 * 5 / 9)


def test_grounding_without_a_single_known_word(
    regions: pa.Table, phrases: pa.Table, aligner: Aligner
) -> None:
    unknown = phrases.filter(pc.equal(phrases["sentence_id"], "plain.jpg#1"))
    found = evaluation.grounding(aligner, regions, unknown, SnippetConfig())
    assert (found["answered"], found["iou50"], found["whole_image_iou50"]) == (0, 0.0, 100.0)


def chosen(
    aligner: Aligner,
    regions: pa.Table,
    phrases: pa.Table,
    *,
    beta: float | None = None,
    **hints: Any,
) -> dict[int, int]:
    """The regions of the phrases of "a dog runs a red ball", by their number."""
    scored = evaluation.phrase_scores(aligner, regions, phrases)
    found = evaluation.choose(scored, Hints(**hints), beta=beta)
    return {number: at for (sentence, number), at in found.items() if sentence == "pair.jpg#0"}


def test_a_chain_holds_the_words_of_a_sentence_together(
    aligner: Aligner, regions: pa.Table, phrases: pa.Table
) -> None:
    assert chosen(aligner, regions, phrases) == {0: 1, 1: 2, 2: 2, 3: 1}
    # "a" fits neither box better and stays on the first; each "dog" and "ball" comes last.
    assert chosen(aligner, regions, phrases, beta=0.0) == {0: 1, 1: 2, 2: 2, 3: 1}
    # One region for all: 4 + 3 on the left and on the right; a tie ends on the lowest.
    assert chosen(aligner, regions, phrases, beta=100.0) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_box_that_the_detector_is_sure_of_wins(
    aligner: Aligner, regions: pa.Table, phrases: pa.Table
) -> None:
    # Scores 0.9 and 0.8: the left box gains weight * log(0.9 / 0.8) a word.
    lost = chosen(aligner, regions, phrases, detector_weight=100.0)
    assert lost == {0: 1, 1: 1, 2: 1, 3: 1}
    assert chosen(aligner, regions, phrases, detector_weight=1.0)[1] == 2


def test_the_detector_counts_in_grounding_as_in_snippets(
    aligner: Aligner, regions: pa.Table, phrases: pa.Table
) -> None:
    settings = SnippetConfig(detector_weight=100.0)
    found = evaluation.grounding(aligner, regions, phrases, settings)
    assert (
        found["iou50"] < evaluation.grounding(aligner, regions, phrases, SnippetConfig())["iou50"]
    )


def test_a_large_box_wins(aligner: Aligner, regions: pa.Table, phrases: pa.Table) -> None:
    narrow = [[[0, 0, 100, 50], [0, 0, 10, 50], [50, 0, 100, 50]]] * len(regions)
    at = regions.schema.names.index("boxes")
    column = pa.array(narrow, schema.BOXES)
    good = regions.slice(2, 1).set_column(at, "boxes", column.slice(0, 1))
    # "a dog", 4 on the left: log 0.1 against log 0.5 of the image.
    assert chosen(aligner, good, phrases, area_weight=1.0)[0] == 1
    assert chosen(aligner, good, phrases, area_weight=3.0)[0] == 2


def test_the_whole_image_is_a_candidate_if_asked(
    aligner: Aligner, regions: pa.Table, phrases: pa.Table
) -> None:
    # "ball": 4.5 on the whole image, 4 on the right; "a dog": 1 on the whole, 4 on the left.
    assert chosen(aligner, regions, phrases)[2] == 2
    assert chosen(aligner, regions, phrases, whole_image=0.0) == {0: 1, 1: 2, 2: 0, 3: 1}
    assert chosen(aligner, regions, phrases, whole_image=-0.6)[2] == 2
    # In a chain too, where it gains as much for each word.
    assert chosen(aligner, regions, phrases, whole_image=4.0, beta=0.0)[0] == 0
    assert chosen(aligner, regions, phrases, beta=0.0)[0] == 1


def test_a_class_that_speaks_for_the_word_wins(
    aligner: Aligner, regions: pa.Table, phrases: pa.Table
) -> None:
    evidence = np.zeros((6, 3), np.float32)
    evidence[5, 1] = 1.0  # "runs" beside a ball
    labels = LabelWords({"dog": 0, "ball": 1}, evidence)
    assert chosen(aligner, regions, phrases, labels=labels, label_weight=2.0)[3] == 1
    assert chosen(aligner, regions, phrases, labels=labels, label_weight=4.0)[3] == 2
    assert chosen(aligner, regions, phrases, labels=labels)[3] == 1
