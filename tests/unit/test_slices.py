"""Batches as rows: nothing is lost, nothing is copied."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from vsa_ray import schema
from vsa_ray.datasets.slices import SLICES, pack, runs, unpack
from vsa_ray.spans import Span


def numbers(first: int, stop: int) -> pa.Table:
    return pa.table({"n": list(range(first, stop))})


def test_packed_and_unpacked(regions: pa.Table) -> None:
    span = Span(1, 2, 7)
    packed = pack(span, regions)
    assert packed.schema == SLICES
    ((found, table),) = unpack(packed)
    assert (found, table) == (span, regions)
    assert table.schema == schema.REGIONS
    ((_, part),) = unpack(pack(span, regions.slice(1, 2)))
    assert part == regions.slice(1, 2)


def test_what_ray_does_to_blocks() -> None:
    block = pa.concat_tables([pack(Span(0, i, i + 2), numbers(i, i + 2)) for i in (0, 2, 4, 6)])
    cut = pa.concat_tables([block.slice(2, 2), block.slice(0, 1)])
    assert [(span, table["n"].to_pylist()) for span, table in unpack(cut)] == [
        (Span(0, 4, 6), [4, 5]),
        (Span(0, 6, 8), [6, 7]),
        (Span(0, 0, 2), [0, 1]),
    ]


def test_views_of_one_buffer() -> None:
    packed = pack(Span(0, 0, 1000), pa.table({"n": np.arange(1000)})).combine_chunks()
    ((_, table),) = unpack(packed)
    start = packed["rows"].chunk(0).buffers()[2].address
    assert start < table["n"].chunk(0).buffers()[1].address < start + 10_000


def test_runs_of_slices_that_follow_each_other() -> None:
    spans = [Span(0, 4, 6), Span(1, 0, 2), Span(0, 2, 4), Span(0, 8, 9), Span(1, 2, 3)]
    block = pa.concat_tables([pack(span, numbers(span.first, span.stop)) for span in spans])
    found = [(span, table["n"].to_pylist()) for span, table in runs(block)]
    assert found == [
        (Span(0, 2, 6), [2, 3, 4, 5]),
        (Span(0, 8, 9), [8]),
        (Span(1, 0, 3), [0, 1, 2]),
    ]
