"""Slices: the rows of one batch and their position in the input, as one row of a plan.

Ray Data splits and merges blocks depending on memory, which leaves batches half full and loses
track of where a row came from. It never splits a row, so a whole batch is one row: an Arrow stream
in a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from vsa_ray.spans import Span

SLICES = pa.schema(
    {
        "part": pa.int64(),
        "first": pa.int64(),
        "stop": pa.int64(),
        "rows": pa.large_binary(),
    }
)
"""`rows` is a serialised table, made from rows [first, stop) of a part of the input."""


def pack(span: Span, table: pa.Table) -> pa.Table:
    """A table of SLICES with one row."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    buffer = sink.getvalue()
    offsets = pa.py_buffer(pa.array([0, buffer.size], pa.int64()).buffers()[1])
    rows = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])
    return pa.table([*([value] for value in span), rows], schema=SLICES)


def unpack(slices: pa.Table) -> Iterator[tuple[Span, pa.Table]]:
    """The inverse of `pack`; the tables are views into `slices`, nothing is copied."""
    for batch in slices.to_batches():
        rows = batch["rows"]
        _, offsets, data = rows.buffers()  # a scalar's as_buffer would copy
        ends = np.frombuffer(offsets, np.int64)[rows.offset :][: len(rows) + 1].tolist()
        spans = zip(*(batch[name].to_pylist() for name in SLICES.names[:3]), strict=True)
        for span, (start, stop) in zip(spans, pairwise(ends), strict=True):
            stream = pa.ipc.open_stream(data.slice(start, stop - start))
            yield Span(*span), stream.read_all()


def runs(slices: pa.Table) -> Iterator[tuple[Span, pa.Table]]:
    """The same in order, with contiguous slices joined."""
    run: list[tuple[Span, pa.Table]] = []
    for span, table in sorted(unpack(slices), key=lambda one: one[0]):
        if run and (run[-1][0].part, run[-1][0].stop) != (span.part, span.first):
            yield _joined(run)
            run = []
        run.append((span, table))
    if run:
        yield _joined(run)


def _joined(run: list[tuple[Span, pa.Table]]) -> tuple[Span, pa.Table]:
    span = Span(run[0][0].part, run[0][0].first, run[-1][0].stop)
    return span, pa.concat_tables([table for _, table in run])
