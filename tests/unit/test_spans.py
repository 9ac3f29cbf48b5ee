"""What is done and what is left, by names."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest

from vsa_ray.spans import Span, disjoint, pending, span_of


def test_names_there_and_back() -> None:
    for span in (Span(12, 64, 128), Span(1_234_567, 0, 123_456)):
        assert span_of(f"s3://bucket/table/{span.name}.parquet") == span
    assert Span(12, 64, 128).name == "part-000012-00064-00128"
    assert span_of("part-00000.parquet") is None
    assert span_of("part-0123456789abcdef01234567.parquet") is None


def test_what_is_pending() -> None:
    parts = [100, 50, 10, 0]
    assert pending([], parts) == {
        0: [Span(0, 0, 100)],
        1: [Span(1, 0, 50)],
        2: [Span(2, 0, 10)],
    }
    done = [Span(0, 16, 32), Span(0, 32, 64), Span(0, 96, 100), Span(1, 0, 50)]
    assert pending(done, parts) == {
        0: [Span(0, 0, 16), Span(0, 64, 96)],
        2: [Span(2, 0, 10)],
    }


def test_nothing_is_pending_in_any_order_of_parts() -> None:
    done = disjoint([Span(1, 0, 5), Span(0, 3, 6), Span(0, 0, 3)])
    assert done == [Span(0, 0, 3), Span(0, 3, 6), Span(1, 0, 5)]
    assert pending(done, [6, 5]) == {}


@pytest.mark.parametrize("seed", range(20))
def test_of_overlapping_spans_those_with_most_rows_stay(seed: int) -> None:
    rng = random.Random(seed)
    spans = {Span(0, first, first + rng.randint(1, 5)) for first in rng.choices(range(12), k=8)}
    kept = disjoint(spans)
    best = max(
        sum(span.rows for span in some)
        for size in range(len(spans) + 1)
        for some in combinations(sorted(spans), size)
        if all(a.stop <= b.first for a, b in pairwise(some))
    )
    assert sum(span.rows for span in kept) == best
    assert all(a.stop <= b.first for a, b in pairwise(kept))
