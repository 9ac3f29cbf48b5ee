"""The numbers of metrics.json next to their baselines, as plain text and as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_RANKS = {"R@1": "r1", "R@5": "r5", "R@10": "r10", "Median rank": "median_rank"}
_BOXES = {"IoU \N{GREATER-THAN OR EQUAL TO} 0.5": "iou50", "Pointing": "pointing"}
_CAPTIONS = {
    "BLEU-1": "bleu1",
    "BLEU-2": "bleu2",
    "BLEU-3": "bleu3",
    "BLEU-4": "bleu4",
    "ROUGE-L": "rouge_l",
    "CIDEr": "cider",
    "METEOR": "meteor",
    "Seen in training, %": "seen_in_training",
}


@dataclass(frozen=True, slots=True)
class _Column:
    """One method: ours, or a baseline for comparison."""

    name: str
    values: Mapping[str, float | None]
    baseline: bool = True


@dataclass(frozen=True, slots=True)
class _Table:
    title: str
    note: str
    measures: Mapping[str, str]
    """Name of each measure -> its key in the columns' values."""

    columns: Sequence[_Column]

    def rows(self) -> list[tuple[str, list[str]]]:
        """Name and formatted values of every measure that at least one column has."""
        return [
            (name, [_number(key, column.values.get(key)) for column in self.columns])
            for name, key in self.measures.items()
            if any(column.values.get(key) is not None for column in self.columns)
        ]


def summary_text(metrics: Mapping[str, Any]) -> str:
    """Tables for a terminal, one per part of metrics.json; "" if all parts are null."""
    return "\n\n".join(_text_table(table) for table in _tables(metrics))


def html_tables(metrics: Mapping[str, Any]) -> str:
    """The same tables as HTML sections; "" if all parts are null."""
    return "".join(_html_table(table) for table in _tables(metrics))


def _tables(metrics: Mapping[str, Any]) -> list[_Table]:
    parts = {"retrieval": _retrieval, "grounding": _grounding, "captions": _captions}
    return [make(metrics[name]) for name, make in parts.items() if metrics.get(name)]


def _retrieval(part: Mapping[str, Any]) -> _Table:
    chance = part.get("chance") or {}
    columns = []
    directions = {
        "image_annotation": "Image \N{RIGHTWARDS ARROW} text",
        "image_search": "Text \N{RIGHTWARDS ARROW} image",
    }
    for key, name in directions.items():
        columns.append(_Column(name, part[key], baseline=False))
        if key in chance:
            columns.append(_Column("Chance", chance[key]))
    note = f"{part['images']:,} images, {part['sentences']:,} sentences; R@K in percent"
    return _Table("Retrieval", note, _RANKS, columns)


def _grounding(part: Mapping[str, Any]) -> _Table:
    columns = [_Column("This model", part, baseline=False)]
    # "Any box" is an upper bound: a phrase is correct if any box of the picture is. "Top box" is
    # the detector's most confident one.
    baselines = {
        "Any box": "upper_bound",
        "Top box": "most_confident",
        "Whole image": "whole_image",
        "Random box": "random",
    }
    for name, prefix in baselines.items():
        values = {key: part.get(f"{prefix}_{key}") for key in _BOXES.values()}
        if any(value is not None for value in values.values()):
            columns.append(_Column(name, values))
    return _Table("Grounding", f"{part['phrases']:,} phrases; percent correct", _BOXES, columns)


def _captions(part: Mapping[str, Any]) -> _Table:
    columns = [_Column("This model", part, baseline=False)]
    if part.get("nearest_neighbour"):
        columns.append(_Column("Nearest neighbour", part["nearest_neighbour"]))
    note = f"{part['images']:,} images; scores times 100"
    if part.get("tokenizer", "ptb") != "ptb":
        note += "; tokenised without Java, so not exactly comparable to published scores"
    return _Table("Captions", note, _CAPTIONS, columns)


def _number(key: str, value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:g}" if key == "median_rank" else f"{value:.1f}"


def _text_table(table: _Table) -> str:
    rows = table.rows()
    first = max(len(name) for name in table.measures)
    widths = [max(len(column.name), 6) + 2 for column in table.columns]

    def line(name: str, cells: Sequence[str]) -> str:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return name.ljust(first) + "".join(padded)

    head = line("", [column.name for column in table.columns])
    body = [line(name, values) for name, values in rows]
    return "\n".join([f"{table.title} ({table.note})", head, "-" * len(head), *body])


def _html_table(table: _Table) -> str:
    classes = [' class="baseline"' if column.baseline else "" for column in table.columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column.name)}</th>'
        for column, kind in zip(table.columns, classes, strict=True)
    )
    body = ""
    for name, values in table.rows():
        cells = zip(values, classes, strict=True)
        data = "".join(f"<td{kind}>{value}</td>" for value, kind in cells)
        body += f'<tr><th scope="row">{escape(name)}</th>{data}</tr>'
    return (
        f'<section><h2>{table.title}</h2><p class="quiet">{table.note}</p>'
        f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></section>"
    )
