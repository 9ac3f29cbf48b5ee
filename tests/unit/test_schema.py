from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vsa_ray import schema


def ragged(*lengths: int, width: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, width)).astype(np.float32) for n in lengths]


@pytest.mark.parametrize("lengths", [(2, 1, 3), (0, 2), (2, 0, 0), (0,), ()])
def test_nested_and_matrices_are_inverse(lengths: tuple[int, ...]) -> None:
    arrays = ragged(*lengths)
    column = schema.nested(arrays, pa.float32())
    assert column.type == pa.list_(pa.list_(pa.float32()))
    assert column.to_pylist() == [a.tolist() for a in arrays]
    back = schema.matrices(column, 3)
    assert len(back) == len(arrays)
    for got, want in zip(back, arrays, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.shape == want.shape


def test_matrices_of_a_slice_are_those_rows() -> None:
    arrays = ragged(2, 1, 0, 3)
    column = schema.nested(arrays, pa.float32()).slice(1, 3)
    for got, want in zip(schema.matrices(column, 3), arrays[1:], strict=True):
        np.testing.assert_array_equal(got, want)


def test_matrices_of_several_chunks() -> None:
    arrays = ragged(2, 0, 1)
    chunks = pa.chunked_array(
        [schema.nested(arrays[:1], pa.float32()), schema.nested(arrays[1:], pa.float32())]
    )
    for got, want in zip(schema.matrices(chunks, 3), arrays, strict=True):
        np.testing.assert_array_equal(got, want)


def test_matrices_of_more_numbers_than_an_arrow_array_holds() -> None:
    images = schema.nested([np.ones((20, 1280), np.float16)] * 64, pa.float16())
    many = pa.chunked_array([images] * (2**31 // (64 * 20 * 1280) + 1))
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        many.combine_chunks()
    found = schema.matrices(many, 1280)
    assert len(found) == len(many)
    assert found[-1].shape == (20, 1280)


def test_matrices_refuse_rows_of_another_width() -> None:
    with pytest.raises(ValueError, match="expected rows of 4 numbers, got one of 3"):
        schema.matrices(schema.nested(ragged(2), pa.float32()), 4)
    as_many_in_all = pa.array([[[1.0, 2, 3, 4, 5], [6.0, 7, 8]]])
    with pytest.raises(ValueError, match="expected rows of 4 numbers, got one of 5"):
        schema.matrices(as_many_in_all, 4)


def test_nested_keeps_half_precision() -> None:
    features = [np.array([[0.1, 65504.0]])]
    column = schema.nested(features, pa.float16())
    np.testing.assert_array_equal(schema.matrices(column, 2)[0], features[0].astype(np.float16))


def test_offsets() -> None:
    assert schema.offsets(np.array([2, 0, 3], dtype=np.int32)).tolist() == [0, 2, 2, 5]


def test_boxes_survive_parquet(tmp_path: Path) -> None:
    boxes = ragged(2, 1, width=4)
    table = pa.table({"boxes": schema.nested(boxes, pa.float32())})
    pq.write_table(table, tmp_path / "t.parquet")
    read = pq.read_table(tmp_path / "t.parquet")["boxes"]
    for got, want in zip(schema.matrices(read, 4), boxes, strict=True):
        np.testing.assert_array_equal(got, want)
