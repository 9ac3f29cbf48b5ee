"""Find out which rows of an input are done from the names of output files alone.

An input is cut into parts with known numbers of rows; each output file is made from some rows of
one part and named after them. No ids have to be read or stored to resume after a kill.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_NAME = re.compile(r"part-(\d{6,})-(\d{5,})-(\d{5,})\.(parquet|jsonl)")


class Span(NamedTuple):
    """Rows [first, stop) of a part of the input."""

    part: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        return f"part-{self.part:06d}-{self.first:05d}-{self.stop:05d}"

    @property
    def rows(self) -> int:
        return self.stop - self.first


def span_of(file: str) -> Span | None:
    """The rows a file was made from, by its name; None if it has another kind of name."""
    found = _NAME.fullmatch(file.rpartition("/")[2])
    return Span(*map(int, found.groups()[:3])) if found else None


def disjoint(spans: Iterable[Span]) -> list[Span]:
    """The subset of spans without overlaps that has the most rows, in order."""
    by_part: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        by_part[span.part].append(span)
    return [span for _, of_part in sorted(by_part.items()) for span in _disjoint(of_part)]


def _disjoint(spans: list[Span]) -> list[Span]:
    """The same for one part: weighted interval scheduling."""
    spans.sort(key=lambda span: (span.stop, span.first))
    stops = [span.stop for span in spans]
    rows, before = [0], []  # most rows in the first 0, 1, 2, ... spans; spans that end before each
    for i, span in enumerate(spans):
        before.append(bisect_right(stops, span.first, 0, i))
        rows.append(max(rows[i], rows[before[i]] + span.rows))
    kept, i = [], len(spans)
    while i:
        if rows[i] == rows[i - 1]:
            i -= 1
        else:
            kept.append(spans[i - 1])
            i = before[i - 1]
    return kept[::-1]


def pending(done: Iterable[Span], parts: Sequence[int]) -> dict[int, list[Span]]:
    """The missing rows of each part of the input that is not complete.

    Args:
        done: spans that do not overlap, in order.
        parts: rows of each part.
    """
    by_part: dict[int, list[Span]] = defaultdict(list)
    for span in done:
        by_part[span.part].append(span)
    left: dict[int, list[Span]] = {}
    for part, rows in enumerate(parts):
        gaps, at = [], 0
        for span in [*by_part.get(part, ()), Span(part, rows, rows)]:
            if span.first > at:
                gaps.append(Span(part, at, span.first))
            at = span.stop
        if gaps:
            left[part] = gaps
    return left
