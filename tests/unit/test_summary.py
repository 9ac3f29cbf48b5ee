from __future__ import annotations

import re
from typing import Any

import pytest

from vsa_ray.summary import html_tables, summary_text


def ranks(r1: float, median: float) -> dict[str, float]:
    return {"r1": r1, "r5": r1 + 10, "r10": r1 + 20, "median_rank": median}


@pytest.fixture
def metrics() -> dict[str, Any]:
    return {
        "retrieval": {
            "images": 1000,
            "sentences": 5000,
            "image_annotation": ranks(16.25, 8),
            "image_search": ranks(13.0, 9.5),
            "chance": {"image_annotation": ranks(0.5, 190), "image_search": ranks(0.1, 500.5)},
        },
        "grounding": {
            "phrases": 13063,
            "iou50": 34.2,
            "pointing": 66.1,
            "upper_bound_iou50": 77.5,
            "most_confident_iou50": 40.5,
            "most_confident_pointing": 61.5,
            "whole_image_iou50": 19.5,
            "random_iou50": 11.1,
        },
        "captions": {
            "images": 1000,
            **{f"bleu{n}": 60.0 - 10 * n for n in range(1, 5)},
            "rouge_l": 45.0,
            "cider": 40.9,
            "meteor": None,
            "nearest_neighbour": {
                **{f"bleu{n}": 48.0 - 10 * n for n in range(1, 5)},
                "rouge_l": 36.0,
                "cider": 22.0,
                "meteor": None,
            },
        },
    }


def cells(text: str, row: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(row + " "))
    return line.removeprefix(row).split()


def test_every_number_stands_beside_its_baseline(metrics: dict[str, Any]) -> None:
    text = summary_text(metrics)
    assert cells(text, "R@1") == ["16.2", "0.5", "13.0", "0.1"]
    assert cells(text, "Median rank") == ["8", "190", "9.5", "500.5"]
    assert cells(text, "IoU ≥ 0.5") == ["34.2", "77.5", "40.5", "19.5", "11.1"]
    assert cells(text, "Pointing") == ["66.1", "\N{EN DASH}", "61.5", "\N{EN DASH}", "\N{EN DASH}"]
    assert cells(text, "CIDEr") == ["40.9", "22.0"]
    assert "METEOR" not in text, "no column has it"


def test_columns_are_aligned(metrics: dict[str, Any]) -> None:
    for table in summary_text(metrics).split("\n\n"):
        _, *lines = table.splitlines()
        assert len({len(line) for line in lines}) == 1


def test_baselines_may_be_missing(metrics: dict[str, Any]) -> None:
    del metrics["retrieval"]["chance"]
    metrics["captions"]["nearest_neighbour"] = None
    del metrics["grounding"]["most_confident_iou50"]
    del metrics["grounding"]["most_confident_pointing"]
    text = summary_text(metrics)
    assert cells(text, "R@1") == ["16.2", "13.0"]
    assert cells(text, "IoU ≥ 0.5") == ["34.2", "77.5", "19.5", "11.1"]
    assert cells(text, "CIDEr") == ["40.9"]


@pytest.mark.parametrize(("tokenizer", "told"), [("ptb", False), ("vsa_ray", True)])
def test_scores_without_java_say_so(metrics: dict[str, Any], tokenizer: str, told: bool) -> None:
    metrics["captions"]["tokenizer"] = tokenizer
    assert ("without Java" in summary_text(metrics)) == told


@pytest.mark.parametrize("part", ["retrieval", "grounding", "captions"])
def test_a_null_part_is_left_out(metrics: dict[str, Any], part: str) -> None:
    metrics[part] = None
    for text in (summary_text(metrics), html_tables(metrics)):
        titles = [name for name in ("Retrieval", "Grounding", "Captions") if name in text]
        assert titles == [name.title() for name, value in metrics.items() if value]


def test_no_parts_no_text() -> None:
    assert summary_text({"retrieval": None}) == html_tables({}) == ""


def test_html_says_the_same_as_the_text(metrics: dict[str, Any]) -> None:
    shown = re.findall(r"<td[^>]*>([^<]+)</td>", html_tables(metrics))
    text = summary_text(metrics)
    names = ["R@1", "R@5", "R@10", "Median rank", "IoU ≥ 0.5", "Pointing"]
    names += [f"BLEU-{n}" for n in range(1, 5)] + ["ROUGE-L", "CIDEr"]
    assert shown == [value for name in names for value in cells(text, name)]
