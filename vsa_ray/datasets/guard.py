"""Images that crash the process that handles them: retried a few times, then marked as failed.

A segmentation fault in a decoder or an out-of-memory kill cannot be caught, and Ray would restart
the process with the same batch for ever. So workers report what they begin and end to a tally that
outlives them: a batch that has begun repeatedly without ending is processed image by image, and an
image that keeps crashing the process on its own is marked as failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa

from vsa_ray.spans import Span

Mapper = Callable[[pa.Table], pa.Table]

TOGETHER = 2
"""Crashes after which a batch is processed image by image."""

ALONE = 3
"""Crashes of an image on its own after which it is given up. A process may also die for other
reasons, but hardly this often at the same image."""

STATUS = "crashed"

Key = tuple[str | int, ...]


class Tally(Protocol):
    """Counts begun and ended work, outside of the processes that may crash."""

    def begin(self, key: Key) -> int:
        """Begin work -> how many times work with this key has begun before without ending."""

    def end(self, key: Key) -> None: ...


class Counts:
    """The state of a tally: work in progress, and work that crashed."""

    def __init__(self) -> None:
        self._begun: Counter[Key] = Counter()
        self._mistake: Exception | None = None

    def begin(self, key: Key) -> int:
        self._begun[key] += 1
        return self._begun[key] - 1

    def end(self, key: Key) -> None:
        self._begun.pop(key, None)

    def record(self, mistake: Exception) -> None:
        """Record a UserError from a worker; the first one is kept."""
        self._mistake = self._mistake or mistake

    def recorded(self) -> Exception | None:
        return self._mistake


def guarded(mapper: Mapper, name: str, tally: Tally, span: Span, table: pa.Table) -> pa.Table:
    """`mapper(table)`, except for images that crash it.

    These become rows with status "crashed" before `mapper` sees them, which then passes them
    through like all failed rows.
    """
    key = (name, *span)
    if tally.begin(key) < TOGETHER:
        try:
            result = mapper(table)
        except SystemExit:  # raised by a library; Ray would end the actor
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
        if crashes >= ALONE:  # stays in the tally in case the batch is run again
            results.append(mapper(failed(row, f"{name}: its process died {crashes} times")))
            continue
        try:
            results.append(mapper(row))
        except SystemExit as error:
            results.append(mapper(failed(row, f"{name}: its process was ended ({error!r})")))
        tally.end(key)
    return pa.concat_tables(results)


def failed(row: pa.Table, why: str) -> pa.Table:
    """The row marked as failed: with status and error, and no data."""
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
