"""Every kind of input, on a disk and on S3: which images, under which ids, in which parts."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vsa_ray import files, listing, schema, storage
from vsa_ray.files import files_below
from vsa_ray.images import LOADED, ImageConfig, LoadImages
from vsa_ray.inputs import Inputs, slices
from vsa_ray.listing import kind_of, list_images
from vsa_ray.outputs import JOB
from vsa_ray.s3 import StorageOutage
from vsa_ray.spans import Span
from vsa_ray.storage import StorageError

NAMES = ("a.jpg", "b/c.PNG", "b/d/e f#?.webp", "b.jpeg")


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an input lies."""
    if request.param == "disk":
        return str(tmp_path)
    return str(request.getfixturevalue("s3"))


def put(place: str, *names: str, data: bytes = b"x") -> str:
    uri = storage.join(place, "input")
    for name in names:
        storage.write_bytes(storage.join(uri, name), data)
    return uri


def rows(inputs: Inputs, size: int = 2) -> list[dict[str, Any]]:
    found = []
    for number, part in enumerate(inputs.parts):
        for span, table in slices(part, inputs.columns, [Span(number, 0, part.rows)], size):
            assert len(table) == span.rows <= size
            found += table.to_pylist()
    return found


def out(place: str) -> str:
    return storage.join(place, "out")


def test_a_folder(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PART_ROWS", 3)
    uri = put(place, *NAMES, "._a.jpg", "notes.txt", "b/.hidden.png", "b/.Trash/c/deleted.jpg")
    inputs = list_images(uri, out(place))
    assert inputs.rows == [3, 1]
    found = rows(inputs)
    assert {row["image_id"] for row in found} == {*NAMES}
    assert all(row["uri"] == storage.join(storage.absolute(uri), row["image_id"]) for row in found)
    assert {row["split"] for row in found} == {""}


def test_a_listing_stays_as_it_was(place: str) -> None:
    uri = put(place, "a.jpg", "c.jpg")
    before = rows(list_images(uri, out(place)))
    put(place, "b.jpg")
    assert rows(list_images(uri, out(place))) == before
    assert len(rows(list_images(uri, storage.join(place, "another")))) == 3


def test_a_listing_that_was_killed_begins_again(place: str) -> None:
    uri = put(place, *NAMES)
    list_images(uri, out(place))
    filesystem, path = storage.resolve(storage.join(out(place), listing.FOLDER, storage.SUCCESS))
    filesystem.delete_file(path)
    assert len(rows(list_images(uri, out(place)))) == len(NAMES)


def test_a_folder_without_images(place: str) -> None:
    uri = put(place, "notes.txt", "deeper/1.tar")
    with pytest.raises(StorageError, match=r"no images .* below it .*give their folder"):
        list_images(uri, out(place))


def test_s3_is_listed_page_by_page(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAGE_KEYS", 3)
    names = [f"{i}.jpg" for i in range(8)]
    uri = put(s3, *names, "deeper/1.jpg")
    stream = files.files_below(uri)
    assert next(stream) == f"{uri}/0.jpg"
    storage.write_bytes(f"{uri}/7.1.jpg", b"")  # a page that has not been asked for
    assert [*stream] == [f"{uri}/{name}" for name in [*names[1:7], "7.1.jpg", *names[7:]]] + [
        f"{uri}/deeper/1.jpg"
    ]
    assert [*files.files_below(uri, depth=1)][-1] == f"{uri}/7.jpg"


def test_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(StorageError, match="check the bucket and the credentials"):
        list(files.files_below("s3://no-such-bucket/x"))


def test_links_in_a_circle(tmp_path: Path) -> None:
    put(str(tmp_path), "a/b.jpg")
    (tmp_path / "input" / "a" / "round").symlink_to(tmp_path / "input")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.jpg").write_bytes(b"x")
    (tmp_path / "input" / "linked").symlink_to(tmp_path / "elsewhere")
    inputs = list_images(str(tmp_path / "input"), str(tmp_path / "out"))
    assert [row["image_id"] for row in rows(inputs)] == ["a/b.jpg", "linked/c.jpg"]


TEXT = "one.jpg\n\ns3://bucket/two.jpg\r\n/three, or more.jpg\n"
CSV = 'id,other,uri\n1,x,one.jpg\n2,y,s3://bucket/two.jpg\n3,z,"/three, or more.jpg"\n'


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_a_list(place: str, kind: str, with_ids: bool) -> None:
    uri = storage.join(place, f"list.{kind}")
    uris = ["one.jpg", "s3://bucket/two.jpg", "/three, or more.jpg"]
    table = pa.table({"id": [1, 2, 3], "uri": uris} if with_ids else {"url": uris})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    csv = CSV if with_ids else "\n".join(f'"{one}"' for one in ["uri", *uris])
    data = {"txt": TEXT.encode(), "csv": csv.encode("utf-8-sig"), "parquet": sink.getvalue()}
    storage.write_bytes(uri, bytes(data[kind]))
    found = rows(list_images(uri, out(place)))
    folder = storage.absolute(place)
    assert [row["uri"] for row in found] == [f"{folder}/one.jpg", *uris[1:]]
    known = ["1", "2", "3"] if with_ids and kind != "txt" else uris
    assert [row["image_id"] for row in found] == known


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", "a.jpg\nb.jpg\na.jpg\n", "two images have the id 'a.jpg'"),
        ("list.csv", "id,uri\n7,a.jpg\n8,b.jpg\n7,c.jpg\n", "two images have the id '7'"),
        ("list.csv", "id,picture\n1,a.jpg\n", r"no column uri or url or path \(found: id, p"),
        ("list.csv", "id,uri\n1,\n", "row 1 has no URI"),
        ("list.txt", "a.jpg\nhttps://x/b.jpg\n", "row 2: https://x/b.jpg: scheme 'https'"),
        ("list.txt", "\n", "no images in this list"),
        ("photo.jpg", "x", "is a file; give the directory that holds it, or a .csv"),
        ("shard.tar", "no tar file at all" * 100, "not a tar file that can be read in parts"),
    ],
)
def test_inputs_that_make_no_sense(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StorageError, match=message):
        list_images(str(tmp_path / name), str(tmp_path / "out"))
    assert storage.committed(str(tmp_path / "out" / listing.FOLDER)) is None


def shard(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_tar_shards(place: str) -> None:
    uri = storage.join(place, "input")
    big = b"1" * 100_000
    first = shard(("k1.jpg", big), ("k1.json", b"{}"), ("sub/k2.x.png", b"22"), (".k3.jpg", b"3"))
    storage.write_bytes(f"{uri}/0.tar", first)
    storage.write_bytes(f"{uri}/more/1.tar", shard(("k1.jpg", b"4")))
    storage.write_bytes(f"{uri}/2.tar", shard(("text.txt", b"")))
    inputs = list_images(uri, out(place))
    assert inputs.rows == [2, 0, 1]
    found = rows(inputs)
    assert [row["image_id"] for row in found] == ["0/k1", "0/sub/k2.x", "more/1/k1"]
    kept = {"0.tar": first, "more/1.tar": shard(("k1.jpg", b"4"))}
    for row, data in zip(found, (big, b"22", b"4"), strict=True):
        lies_in = kept[row["container"][len(storage.absolute(uri)) + 1 :]]
        assert lies_in[row["offset"] : row["offset"] + row["size"]] == data
    one = rows(list_images(f"{uri}/0.tar", storage.join(place, "another")))
    assert [row["image_id"] for row in one] == ["0/k1", "0/sub/k2.x"]


def test_two_members_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(shard(("k.jpg", b"1"), ("k.png", b"2")))
    with pytest.raises(StorageError, match="two images have the id '0/k'"):
        list_images(str(tmp_path / "0.tar"), str(tmp_path / "out"))


@pytest.mark.parametrize("column", ["bytes", "image"])
def test_bytes_in_parquet(place: str, column: str) -> None:
    data = [b"%d" % i for i in range(5)]
    plain = (
        pa.array(data) if column == "bytes" else pa.array([{"bytes": b, "path": ""} for b in data])
    )
    for name, ids in (("x", [f"i{i}" for i in range(5)]), ("y", [f"j{i}" for i in range(5)])):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": ids, column: plain}), sink, row_group_size=3)
        storage.write_bytes(storage.join(place, "input", f"{name}.parquet"), bytes(sink.getvalue()))
    inputs = list_images(storage.join(place, "input"), out(place))
    assert inputs.rows == [3, 2, 3, 2]
    found = rows(inputs)
    assert [row["image_id"] for row in found] == [f"{k}{i}" for k in "ij" for i in range(5)]
    assert [row["bytes"] for row in found] == data * 2
    assert found[4]["uri"].endswith("/input/x.parquet#4")
    again = list_images(storage.join(place, "input"), out(place))
    assert again == inputs


def test_bytes_without_ids_and_ids_twice(tmp_path: Path) -> None:
    pq.write_table(pa.table({"bytes": [b"x", b"y"]}), tmp_path / "n.parquet")
    found = rows(list_images(str(tmp_path / "n.parquet"), str(tmp_path / "out")))
    assert [row["image_id"] for row in found] == [f"{tmp_path}/n.parquet#{i}" for i in range(2)]
    pq.write_table(pa.table({"id": [1, 1], "bytes": [b"x", b"y"]}), tmp_path / "t.parquet")
    with pytest.raises(StorageError, match="two images have the id '1'"):
        list_images(str(tmp_path / "t.parquet"), str(tmp_path / "out2"))


def test_a_table_of_ours_is_its_own_listing(place: str) -> None:
    uri = storage.join(place, "images")
    table = pa.table(
        {"image_id": ["a", "b", "c"], "uri": ["1", "2", "3"], "split": ["", "", "dev"]},
        schema=schema.IMAGES,
    )
    storage.write_table(uri, table)
    storage.write_json(storage.join(uri, JOB), {})
    storage.commit(uri, {})
    inputs = list_images(uri, out(place))
    assert rows(inputs) == table.to_pylist()
    assert not storage.exists(storage.join(out(place), listing.FOLDER))


@pytest.mark.parametrize("success", [b"", b'{"name": "org.apache.hadoop.Committer/1"}'])
def test_a_table_that_spark_has_finished_is_not_ours(place: str, success: bytes) -> None:
    uri = storage.join(place, "input")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["a"], "bytes": [b"x"]}), sink)
    storage.write_bytes(storage.join(uri, "part-0.parquet"), bytes(sink.getvalue()))
    storage.write_bytes(storage.join(uri, storage.SUCCESS), success)
    inputs = list_images(uri, out(place))
    assert inputs.columns.data == "bytes"
    assert [row["image_id"] for row in rows(inputs)] == ["a"]


def test_of_two_listings_at_once_the_first_counts(place: str) -> None:
    uri = storage.join(place, "shards")
    storage.write_bytes(f"{uri}/1.tar", shard(("a.png", b"x")))
    first: list[listing.Inputs] = []

    def late(function: Callable[[Any], Any], items: list[Any]) -> Iterable[Any]:
        """Another start lists while this one does, and more has come meanwhile."""
        first.append(list_images(uri, out(place)))
        storage.write_bytes(f"{uri}/1.tar", shard(("a.png", b"x"), ("b.png", b"y")))
        return map(function, items)

    second = list_images(uri, out(place), late)
    assert second == first[0]
    assert [row["image_id"] for row in rows(second)] == ["1/a"]


def test_damaged_shards_are_refused(tmp_path: Path) -> None:
    whole = shard(*((f"{i}.png", bytes(700)) for i in range(4)))
    header = tarfile.BLOCKSIZE + 1024  # of each member: its header, then its data in blocks
    broken = bytearray(whole)
    broken[2 * header : 2 * header + tarfile.BLOCKSIZE] = b"x" * tarfile.BLOCKSIZE
    for name, data, message in (
        ("cut", whole[: 2 * header], "cut off"),
        ("in_a_header", whole[: 2 * header + 100], "cut off"),
        ("broken", bytes(broken), "damaged, or several tar files in one"),
        ("joined", whole + whole, "damaged, or several tar files in one"),
    ):
        (tmp_path / f"{name}.tar").write_bytes(data)
        with pytest.raises(StorageError, match=message):
            list_images(str(tmp_path / f"{name}.tar"), str(tmp_path / name))
    (tmp_path / "whole.tar").write_bytes(whole)
    assert list_images(str(tmp_path / "whole.tar"), str(tmp_path / "whole")).rows == [4]


def test_files_of_other_kinds_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = put(str(tmp_path), "a.avif", "b.jfif", "c.txt", "d.heic", "e.HEIC")
    with caplog.at_level("INFO"):
        assert len(rows(list_images(uri, str(tmp_path / "out")))) == 2
    assert "skipping files that are not images: {'.heic': 2, '.txt': 1}" in caplog.text


def test_gaps_are_read_as_an_undisturbed_run_would(tmp_path: Path) -> None:
    table = pa.table({"image_id": [f"{i}" for i in range(20)]})
    pq.write_table(table, tmp_path / "part-00000.parquet", row_group_size=7)
    storage.commit(str(tmp_path), {})
    (part,) = list_images_of(tmp_path)
    gaps = [Span(0, 4, 8), Span(0, 12, 20)]
    found = list(slices(part, listing.Columns(("image_id",)), gaps, 3))
    assert [span for span, _ in found] == [
        Span(0, 4, 7),
        Span(0, 7, 8),
        Span(0, 12, 15),
        Span(0, 15, 18),
        Span(0, 18, 20),
    ]
    for span, rows_of in found:
        expected = [str(i) for i in range(span.first, span.stop)]
        assert rows_of["image_id"].to_pylist() == expected


def list_images_of(folder: Path) -> list[listing.Part]:
    return listing.inputs.of_table(str(folder)).parts


def test_members_are_loaded_like_files(tmp_path: Path) -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(stream, "PNG")
    (tmp_path / "0.tar").write_bytes(shard(("a.png", stream.getvalue()), ("b.png", b"broken")))
    inputs = list_images(str(tmp_path / "0.tar"), str(tmp_path / "out"))
    ((_, table),) = slices(inputs.parts[0], inputs.columns, [Span(0, 0, 2)], 8)
    loaded = LoadImages(ImageConfig())(table)
    assert loaded.schema == LOADED
    assert loaded["status"].to_pylist() == ["ok", "not_an_image"]


def test_kinds(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jpg", "all.tar", "all.parquet")
    assert kind_of(str(tmp_path / "input")) == "folder"
    (tmp_path / "input" / "a.jpg").unlink()
    assert kind_of(str(tmp_path / "input")) == "shards"
    (tmp_path / "input" / "all.tar").unlink()
    assert kind_of(str(tmp_path / "input")) == "parquet"
    with pytest.raises(StorageError, match="does not exist"):
        kind_of(str(tmp_path / "lost"))


def test_a_name_that_is_not_utf_8_is_a_row_that_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb"):  # noqa: PTH123 - Path takes no bytes
        pass
    inputs = list_images(str(folder), str(tmp_path / "out"))
    ((_, table),) = slices(inputs.parts[0], inputs.columns, [Span(0, 0, 1)], 8)
    assert table["image_id"].to_pylist() == ["caf\\xe9.jpg"]
    assert LoadImages(ImageConfig())(table)["status"].to_pylist() == ["missing"]


def test_a_member_whose_name_is_not_utf_8_is_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(
        fileobj=stream, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as tar:
        info = tarfile.TarInfo("café.jpg")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "0.tar").write_bytes(stream.getvalue())
    (row,) = rows(list_images(str(tmp_path / "0.tar"), str(tmp_path / "out")))
    assert row["image_id"] == "0/caf\\xe9"


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_that_is_not_utf_8(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("uri\ncafé.jpg\n".encode("latin-1"))
    with pytest.raises(StorageError, match=r"not UTF-8 .*; convert it"):
        list_images(str(tmp_path / name), str(tmp_path / "out"))


def test_a_folder_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = put(str(tmp_path), "a.jpg", "lost+found/b.jpg")
    scandir, denied = os.scandir, {f"{uri}/lost+found"}

    def scan(folder: str) -> Any:
        if folder in denied:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    found = rows(list_images(uri, str(tmp_path / "out")))
    assert [row["image_id"] for row in found] == ["a.jpg"]
    assert "lost+found: Permission denied" in caplog.text
    denied.add(uri)
    with pytest.raises(StorageError, match="input cannot be listed: Permission denied"):
        list_images(uri, str(tmp_path / "again"))


def test_a_listing_without_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match=r"nobody.*; set AWS_ACCESS_KEY_ID") as raised:
        list(files_below(s3))
    assert not isinstance(raised.value, StorageOutage)


def test_a_row_group_is_not_read_as_a_whole(tmp_path: Path) -> None:
    """Of somebody's Parquet, whose row groups may be as large as memory."""
    image, images = 2**20, 64
    table = pa.table({"bytes": [os.urandom(image) for _ in range(images)]})
    pages = {"use_dictionary": False, "data_page_size": image, "write_batch_size": 1}
    pq.write_table(table, tmp_path / "all.parquet", compression="none", **pages)
    del table
    inputs = list_images(str(tmp_path / "all.parquet"), str(tmp_path / "out"))
    before, most = pa.total_allocated_bytes(), 0
    # A job that goes on may have gaps that fit no slice.
    gaps = [Span(0, 3, 31), Span(0, 33, images)]
    for _ in slices(inputs.parts[0], inputs.columns, gaps, 4):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < images * image / 2
