"""The files of docs/results to the page that shows them beside the paper's numbers.

A file holds, for one recipe, the parts of metrics.json as means over its seeds, and:

    spread      their standard deviations, in the same shape
    retrieval_rows, losses, grounding_rows, chain, caption_rows, box_rows
                name of each row -> {"mean": ..., "spread": ...}
    seeds, command, config (YAML), commit, machine
    seconds     of each part
    at_once     parts that were made side by side, after the regions
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vsa_ray.results import paper

Results = Mapping[str, Any]
"""The content of one file."""

Measures = Mapping[str, tuple[str, ...]]
"""Head of each column -> where its number stands in a row."""

_RANKS: Measures = {
    f"{direction} {head}": (part, key)
    for direction, part in (("A", "image_annotation"), ("S", "image_search"))
    for head, key in (("R@1", "r1"), ("R@5", "r5"), ("R@10", "r10"), ("Med r", "median_rank"))
}
_BOXES: Measures = {"IoU 0.5": ("iou50",), "pointing": ("pointing",)}
_TEXTS: Measures = {
    **{f"B-{n}": (f"bleu{n}",) for n in range(1, 5)},
    "METEOR": ("meteor",),
    "ROUGE-L": ("rouge_l",),
    "CIDEr": ("cider",),
}

TITLE = "# Flickr8k, beside the paper"

_INTRODUCTION = f"""\
{TITLE}

Written by `jobs.reproduce` from the JSON files in this directory; change those, not this page.
The photographs of the official split: 6,000 to learn from, 1,000 to choose settings by (dev), 1,000
to measure on (test). Everything was chosen on dev, by hand or by the job, nothing by test; the
project's README says how often test was measured. Numbers of ours are means over seeds, ± the
standard deviation. "Paper" is Karpathy & Fei-Fei, *Deep Visual-Semantic Alignments for Generating
Image Descriptions*, whose CNN and boxes (R-CNN, 200 classes, AlexNet's features) are other than
ours (see each recipe's settings). Its median ranks and BLEU are as reported: they could not be
compared with a second source, as its R@K could.
"""


def results_page(results: Mapping[str, Results]) -> str:
    """Markdown.

    Args:
        results: by recipe, in the order of the rows.
    """
    sections = [_INTRODUCTION]
    for make in (_retrieval, _losses, _grounding, _chain, _captions, _boxes):
        sections += make(results)
    sections += [_how(name, of_recipe) for name, of_recipe in results.items()]
    return "\n".join(sections)


def _retrieval(results: Mapping[str, Results]) -> Iterator[str]:
    rows = [*_rows_of_paper(paper.RETRIEVAL), *_rows(results, "retrieval_rows")]
    yield (
        "## Retrieval\n\nA: images find their sentences (annotation); S: sentences find their image"
        " (search). 1,000 images, 5,000 sentences. Median ranks that are no integers are means over"
        f" runs. Paper: {paper.RETRIEVAL_SOURCE}.\n"
    )
    yield _table(_RANKS, rows)


def _losses(results: Mapping[str, Results]) -> Iterator[str]:
    if rows := _rows(results, "losses"):
        yield (
            "## Losses\n\nOne seed, the same settings and as many epochs for each loss; dev, since"
            " this is how one is chosen.\n"
        )
        yield _table(_RANKS, rows)


def _grounding(results: Mapping[str, Results]) -> Iterator[str]:
    if rows := _rows(results, "grounding_rows"):
        yield (
            "## Grounding\n\nPhrases that people boxed (Flickr30k Entities) on the test images, in"
            " percent: the chosen box has an IoU of 0.5 or more with one of theirs, or its centre"
            " lies in one. Alone: by the sum of v_i . s_t over the phrase's words; a model may have"
            " learned from the detector (alignment.distillation). All that the detector knows: with"
            " the confidence, size and class of each box, weighted on dev; the whole image is a"
            " candidate too, where it is worth it on dev.\n"
        )
        yield _table(_BOXES, rows)


def _chain(results: Mapping[str, Results]) -> Iterator[str]:
    if rows := _rows(results, "chain"):
        yield (
            "### The chain MRF\n\nA phrase goes where most of its words go. At β = 0 they are"
            " independent; the larger β, the more do neighbours keep together.\n"
        )
        yield _table(_BOXES, rows)


def _captions(results: Mapping[str, Results]) -> Iterator[str]:
    measures = {**_TEXTS, "seen, %": ("seen_in_training",)}
    rows = [*_rows_of_paper(paper.CAPTIONS), *_rows(results, "caption_rows")]
    yield (
        "## Captions of whole images\n\nSeen: the share of the captions that are sentences of the"
        f" train split, word by word. Paper: {paper.CAPTIONS_SOURCE}.\n"
    )
    yield _table(measures, rows)


def _boxes(results: Mapping[str, Results]) -> Iterator[str]:
    if rows := _rows(results, "box_rows"):
        yield (
            "## Captions of boxes\n\nOne seed, of the boxes that people drew; references are all"
            " phrases that were said of a box alone. Words: of a text, on average. Paper, on other"
            f" images: {paper.BOXES_SOURCE}.\n"
        )
        yield _table({**_TEXTS, "words": ("words",)}, [*_rows_of_paper(paper.BOXES), *rows])


_Row = tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""Name, numbers, their deviations."""


def _rows(results: Mapping[str, Results], table: str) -> list[_Row]:
    return [
        (f"{recipe}: {name}", row["mean"], row.get("spread") or {})
        for recipe, of_recipe in results.items()
        for name, row in (of_recipe.get(table) or {}).items()
    ]


def _rows_of_paper(rows: Mapping[str, Mapping[str, Any]]) -> list[_Row]:
    return [(f"Paper: {name}", row, {}) for name, row in rows.items()]


def _table(measures: Measures, rows: Sequence[_Row]) -> str:
    """Columns that no row has a number for are left out."""
    used = {
        head: path
        for head, path in measures.items()
        if any(_at(row, path) is not None for _, row, _ in rows)
    }
    lines = ["| | " + " | ".join(used) + " |", "|---|" + "---|" * len(used)]
    for name, row, spread in rows:
        cells = (_cell(head, _at(row, path), _at(spread, path)) for head, path in used.items())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _at(row: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None


def _cell(head: str, value: float | None, spread: float | None) -> str:
    if value is None:
        return ""
    number = f"{value:g}" if head.endswith("Med r") and value == int(value) else f"{value:.1f}"
    return f"{number} ± {spread:.1f}" if spread is not None else number


def is_result(document: object) -> bool:
    """Whether a JSON file is one of docs/results."""
    return isinstance(document, dict) and {"retrieval_rows", "seconds"} <= document.keys()


def _how(name: str, of_recipe: Results) -> str:
    seconds = of_recipe["seconds"]
    parts = ", ".join(f"{part} {value:.0f}" for part, value in seconds.items())
    return (
        f"## How {name} was made\n\n"
        f"    {of_recipe['command']}\n\n"
        f"Commit {of_recipe['commit']}, seeds {', '.join(map(str, of_recipe['seeds']))}. "
        f"{of_recipe['machine']}. Its parts took {sum(seconds.values()) / 60:.0f} minutes in all, "
        f"models {of_recipe['at_once']} at a time; seconds: {parts}.\n\n"
        f"<details><summary>Settings</summary>\n\n```yaml\n{of_recipe['config'].rstrip()}\n```\n"
        "</details>\n"
    )
