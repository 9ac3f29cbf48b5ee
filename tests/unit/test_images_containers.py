"""Images that are parts of larger files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from odd_pictures import file, picture

from vsa_ray import images, schema, storage
from vsa_ray.images import ImageConfig, LoadImages, reading
from vsa_ray.images.reading import Source

SIZES = [(3, 2), (5, 4), (7, 6), (9, 8)]

Row = dict[str, object]


def table(rows: list[Row]) -> pa.Table:
    names = [*schema.IMAGES, *images.SOURCES]
    filled = [
        {"image_id": str(i), "split": "", "uri": f"x#{i}"} | row for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(filled, schema=pa.schema(names))


def loaded(rows: list[Row], **settings: int) -> list[tuple[str, int]]:
    """Status and width of each."""
    config = ImageConfig(retry_seconds=0, **settings)
    found = LoadImages(config)(table(rows))
    return list(zip(found["status"].to_pylist(), found["width"].to_pylist(), strict=True))


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3") if request.param == "s3" else tmp_path)


@pytest.fixture
def members(folder: str) -> list[Row]:
    """Four members of a tar file, the third one damaged."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for i, size in enumerate(SIZES):
            data = file(picture(*size)) if i != 2 else b"<html>"
            info = tarfile.TarInfo(f"{i}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    uri = storage.join(folder, "shard.tar")
    storage.write_bytes(uri, sink.getvalue())
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as tar:
        return [
            {"container": uri, "offset": member.offset_data, "size": member.size} for member in tar
        ]


EXPECTED = [("ok", 3), ("ok", 5), ("not_an_image", 0), ("ok", 9)]


def test_members_of_a_tar_file(members: list[Row]) -> None:
    assert loaded(members) == EXPECTED
    assert loaded(members[::-1] + members) == EXPECTED[::-1] + EXPECTED


def test_members_that_lie_together_are_read_at_once(members: list[Row]) -> None:
    sources = {i: Source(None, **row) for i, row in enumerate(members)}  # type: ignore[arg-type]
    assert [read.rows for read in reading.plan(sources, 10**6)] == [[0, 1, 2, 3]]


def test_spans_are_bounded() -> None:
    def rows(*spans: tuple[int, int]) -> list[list[int]]:
        sources = {
            i: Source(None, container="c", offset=offset, size=size)
            for i, (offset, size) in enumerate(spans)
        }
        return [read.rows for read in reading.plan(sources, 2**40)]

    third = reading.SPAN_BYTES // 3
    assert rows((0, third), (third, third), (2 * third, third), (3 * third, third)) == [
        [0, 1, 2],
        [3],
    ]
    assert rows((0, 10), (10 + reading.GAP_BYTES, 10), (21 + 2 * reading.GAP_BYTES, 5)) == [
        [0, 1],
        [2],
    ]
    assert rows((50, 10), (0, 100), (100, 2 * reading.SPAN_BYTES)) == [[1, 0], [2]]


def test_members_that_are_not_there(members: list[Row]) -> None:
    uri = members[0]["container"]
    rows = [
        {"container": uri, "offset": 10**6, "size": 5},
        {"container": uri, "offset": 512, "size": 10**7},
        {"container": uri, "offset": -5, "size": 5},
        {"container": uri, "offset": 0, "size": None},
        {"container": f"{uri}.gone", "offset": 0, "size": 5},
        {"container": uri, "offset": None, "size": 5},
        {"container": uri, "offset": 512, "size": 0},
    ]
    statuses = [status for status, _ in loaded([*rows, *members])]
    assert statuses[:7] == [
        "truncated",
        "truncated",
        "unreadable",
        "unreadable",
        "missing",
        "unreadable",
        "empty",
    ]
    assert loaded([*rows, *members])[7:] == EXPECTED  # its neighbours do not matter
    assert loaded(members, max_bytes=50)[:3] == [("too_large", 0)] * 2 + [("not_an_image", 0)]


def test_files_and_members_in_one_batch(folder: str, members: list[Row]) -> None:
    uri = storage.join(folder, "alone.png")
    storage.write_bytes(uri, file(picture(33, 1)))
    assert loaded([members[0], {"uri": uri}, members[3]]) == [("ok", 3), ("ok", 33), ("ok", 9)]
