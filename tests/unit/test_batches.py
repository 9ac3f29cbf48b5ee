from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from vsa_ray import batches


@pytest.mark.parametrize(
    ("which", "lengths", "words"),
    [
        ("all", [3, 1], [[1.5, 4.5], [4, 0], [0, 4], [0.5, 2]]),
        ("boxes", [2, 1], [[4, 0], [0, 4], [0.5, 2]]),
        ("whole_image", [1, 1], [[1.5, 4.5], [0.5, 2]]),
    ],
)
def test_seen(which: Any, lengths: list[int], words: list[list[float]], regions: pa.Table) -> None:
    """pair.jpg has two boxes, plain.jpg none: see conftest.py."""
    seen = batches.seen(batches.features(regions.slice(2, 2)), which)
    assert seen.lengths.tolist() == lengths
    assert seen.rows[:, 2:4].tolist() == words
