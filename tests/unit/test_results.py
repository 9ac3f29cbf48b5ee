from __future__ import annotations

import re
from typing import Any

import pytest

from vsa_ray.results import mean_and_spread, results_page


def test_mean_and_spread_have_the_shape_of_one_result() -> None:
    seeds: list[dict[str, Any]] = [
        {"images": 1000, "annotation": {"r1": 20.0, "meteor": None}, "tokenizer": "ptb"},
        {"images": 1000, "annotation": {"r1": 21.0, "meteor": None}, "tokenizer": "ptb"},
        {"images": 1000, "annotation": {"r1": 25.0, "meteor": None}, "tokenizer": "ptb"},
    ]
    mean, spread = mean_and_spread(seeds)
    assert mean == {
        "images": 1000,
        "annotation": {"r1": 22.0, "meteor": None},
        "tokenizer": "ptb",
    }
    assert isinstance(mean["images"], int)
    assert spread == {"images": 0.0, "annotation": {"r1": pytest.approx(7**0.5)}}


def test_one_seed_has_no_spread() -> None:
    assert mean_and_spread([{"r1": 20.0, "of": {"n": 3}}]) == ({"r1": 20.0, "of": {"n": 3}}, {})


def test_what_is_missing_in_one_seed_has_no_spread() -> None:
    mean, spread = mean_and_spread([{"meteor": 17.0, "a": {"b": 1}}, {"meteor": None, "a": None}])
    assert mean == {"meteor": 17.0, "a": {"b": 1}}
    assert spread == {}


def ranks(r1: float, median: float = 5) -> dict[str, Any]:
    return {"r1": r1, "r5": r1 + 10, "r10": r1 + 20, "median_rank": median}


@pytest.fixture
def recipe() -> dict[str, Any]:
    both = {"image_annotation": ranks(20.04), "image_search": ranks(15, 8.5)}
    return {
        "retrieval_rows": {"whole image": {"mean": both, "spread": {"image_search": {"r1": 0.31}}}},
        "losses": {},
        "grounding_rows": {"alignment": {"mean": {"iou50": 50.2, "pointing": 70.9}, "spread": {}}},
        "chain": {},
        "caption_rows": {"beam 7": {"mean": {"bleu1": 60.0, "seen_in_training": 12.0}}},
        "box_rows": {"region-level model": {"mean": {"bleu1": 40.0, "words": 2.5}}},
        "seeds": [0, 1, 2],
        "command": "python -m jobs.reproduce --data DIR",
        "config": "alignment:\n  loss: softmax\n",
        "commit": "abc1234",
        "machine": "A processor",
        "at_once": 2,
        "seconds": {"regions": 600.0, "alignment": 1200.0},
    }


def cells(page: str, name: str) -> list[str]:
    (line,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", page, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def test_ours_stand_below_the_papers(recipe: dict[str, Any]) -> None:
    page = results_page({"flickr8k": recipe})
    brnn = cells(page, "Paper: BRNN")
    assert brnn == ["16.5", "40.6", "54.2", "7.6", "11.8", "32.1", "44.7", "12.4"]
    ours = cells(page, "flickr8k: whole image")
    assert ours == ["20.0", "30.0", "40.0", "5", "15.0 ± 0.3", "25.0", "35.0", "8.5"]
    assert page.index("Paper: BRNN") < page.index("flickr8k: whole image")
    assert cells(page, "flickr8k: alignment") == ["50.2", "70.9"]


def test_columns_without_a_number_are_left_out(recipe: dict[str, Any]) -> None:
    page = results_page({"flickr8k": recipe})
    assert "| | B-1 | B-2 | B-3 | B-4 | seen, % |" in page  # nobody gives METEOR here
    assert cells(page, "flickr8k: beam 7") == ["60.0", "", "", "", "12.0"]
    assert cells(page, "Paper: RNN") == ["57.9", "38.3", "24.5", "16.0", ""]


def test_tables_without_a_row_are_left_out(recipe: dict[str, Any]) -> None:
    page = results_page({"flickr8k": recipe})
    assert "## Losses" not in page
    assert "chain" not in page
    assert "## Captions of boxes" in page


def test_how_it_was_made(recipe: dict[str, Any]) -> None:
    page = results_page({"flickr8k_paper": recipe, "flickr8k": recipe})
    assert page.index("## How flickr8k_paper was made") < page.index("## How flickr8k was made")
    assert "    python -m jobs.reproduce --data DIR\n" in page
    assert "Commit abc1234, seeds 0, 1, 2. A processor. Its parts took 30 minutes in all" in page
    assert "  loss: softmax\n```" in page
