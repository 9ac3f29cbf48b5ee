"""Pictures that kill the process that handles them: tried a few times, then a row that says so.

A segmentation fault in a decoder or a kill for want of memory cannot be caught. Ray starts the
process again and gives it the same batch, for ever. So a worker says what it begins and what it has
ended, to somebody who outlives it: a batch that has often begun and never ended is taken apart, and
a picture that keeps killing the process on its own is passed on as failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa

from vsa_ray.spans import Span

Mapper = Callable[[pa.Table], pa.Table]

TOGETHER = 2
"""Crashes after which the images of a batch are handled one by one."""

ALONE = 3
"""Crashes of an image on its own after which it is given up: a process may also die for other
reasons, but hardly so often at the same image."""

STATUS = "crashed"

Key = tuple[str | int, ...]


class Tally(Protocol):
    """Who counts, outside of the process that may crash."""

    def begin(self, key: Key) -> int:
        """How often work with this key has begun before and not ended."""

    def end(self, key: Key) -> None: ...


class Counts:
    """What a tally keeps: only what is under way, or has crashed."""

    def __init__(self) -> None:
        self._begun: Counter[Key] = Counter()
        self._mistake: Exception | None = None

    def begin(self, key: Key) -> int:
        self._begun[key] += 1
        return self._begun[key] - 1

    def end(self, key: Key) -> None:
        self._begun.pop(key, None)

    def tell(self, mistake: Exception) -> None:
        """Of the user, met by a worker; the first is kept."""
        self._mistake = self._mistake or mistake

    def told(self) -> Exception | None:
        return self._mistake


def guarded(mapper: Mapper, name: str, tally: Tally, span: Span, table: pa.Table) -> pa.Table:
    """`mapper(table)`, but for images that do not let it come back.

    Those become rows with status "crashed" before `mapper` sees them, and it passes them on as it
    does all failed ones.
    """
    key = (name, *span)
    if tally.begin(key) < TOGETHER:
        try:
            result = mapper(table)
        except SystemExit:  # of a library: Ray would take it as the wish of an actor to end
            result = _one_by_one(mapper, name, tally, span, table)
    else:
        result = _one_by_one(mapper, name, tally, span, table)
    tally.end(key)
    return result


def _one_by_one(mapper: Mapper, name: str, tally: Tally, span: Span, table: pa.Table) -> pa.Table:
    results = []
    for i in range(len(table)):
        row, key = table.slice(i, 1), (name, span.part, span.first + i)
        crashes = tally.begin(key)
        if crashes >= ALONE:  # stays in the tally, should the batch be needed once more
            results.append(mapper(failed(row, f"{name}: its process died {crashes} times")))
            continue
        try:
            results.append(mapper(row))
        except SystemExit as error:
            results.append(mapper(failed(row, f"{name}: its process was ended ({error!r})")))
        tally.end(key)
    return pa.concat_tables(results)


def failed(row: pa.Table, why: str) -> pa.Table:
    """The row as stages pass on what has failed: status and error, and nothing to work on."""
    columns = {}
    for field in row.schema:
        keep = field.name in ("image_id", "uri", "split")
        columns[field.name] = (
            row[field.name] if keep else pa.array([_empty(field.type)], field.type)
        )
    columns["status"] = pa.array([STATUS], pa.string())
    columns["error"] = pa.array([why], pa.string())
    return pa.table(columns)


def _empty(kind: pa.DataType) -> list[object] | int | None:
    if pa.types.is_list(kind):
        return []
    return 0 if pa.types.is_integer(kind) else None
