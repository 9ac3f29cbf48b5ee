from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from vsa_ray import batches, schema
from vsa_ray.errors import UserError


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


def test_detections_stand_behind_features(regions: pa.Table) -> None:
    """Boxes are the left and the right half of 100 x 50 pixels, scores 0.9 and 0.8."""
    # A slice: what stands before it in memory is not of it. The last image failed.
    some = regions.slice(2, 3)
    found = batches.features(some, with_detections=True)
    assert found.lengths.tolist() == [3, 1, 0]
    features = batches.features(some).rows
    torch.testing.assert_close(found.rows[:, :-6], features, rtol=0, atol=0)
    half = np.log(0.5)
    expected = [
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0.5, 1, half, np.log(0.9)],
        [0.5, 0, 1, 1, half, np.log(0.8)],
        [0, 0, 1, 1, 0, 0],
    ]
    np.testing.assert_allclose(batches.detections(some), expected, rtol=1e-6)
    np.testing.assert_allclose(found.rows[:, -6:].float(), expected, rtol=1e-3)


def test_boxes_without_area_have_a_logarithm(regions: pa.Table) -> None:
    flat = pa.array([[[0.0, 0, 100, 50], [7, 7, 7, 50]]], regions.schema.field("boxes").type)
    scores = pa.array([[1.0, 0.0]], regions.schema.field("scores").type)
    dog = regions.slice(0, 1)
    for name, column in (("boxes", flat), ("scores", scores)):
        dog = dog.set_column(dog.schema.names.index(name), name, column)
    assert batches.detections(dog)[1, 4:].tolist() == pytest.approx([np.log(1e-4)] * 2)


def test_the_width_of_features_is_that_of_the_first_region() -> None:
    failed = schema.nested([np.empty((0, 4), np.float16)], pa.float16())
    good = schema.nested([np.ones((2, 4), np.float16)], pa.float16())
    assert batches.feature_dim(pa.table({"features": pa.chunked_array([failed, good])})) == 4
    with pytest.raises(UserError, match="did every image fail"):
        batches.feature_dim(pa.table({"features": pa.chunked_array([failed, failed])}))
