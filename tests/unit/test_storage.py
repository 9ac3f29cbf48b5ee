from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest

from vsa_ray import storage

SCHEMA = pa.schema({"image_id": pa.string(), "split": pa.string()})
TABLE = pa.table({"image_id": ["a", "b", "c"], "split": ["train", "test", "train"]}, schema=SCHEMA)


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty directory of either kind."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    return str(tmp_path)


def names(uri: str, *, recursive: bool = False) -> list[str]:
    root = storage.absolute(uri)
    return [file.removeprefix(f"{root}/") for file in storage.list_files(uri, recursive=recursive)]


def test_write_then_read(folder: str) -> None:
    uri = storage.join(folder, "deep", "er", "file.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert storage.exists(uri)
    assert not storage.is_directory(uri)
    assert storage.is_directory(storage.join(folder, "deep"))


def test_list_files_in_order_of_names(folder: str) -> None:
    for name in ("b.txt", "a.txt", "below/c.txt"):
        storage.write_bytes(storage.join(folder, name), b"")
    assert names(folder) == ["a.txt", "b.txt"]
    assert names(folder, recursive=True) == ["a.txt", "b.txt", "below/c.txt"]
    assert names(storage.join(folder, "missing")) == []
    assert all(storage.exists(file) for file in storage.list_files(folder))


def test_reading_what_is_not_there(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(folder, "missing"))


def test_json(folder: str) -> None:
    uri = storage.join(folder, "value.json")
    storage.write_json(uri, {"café": [1, 2.5, None]})
    assert storage.read_json(uri) == {"café": [1, 2.5, None]}
    storage.write_bytes(uri, b"{")
    with pytest.raises(storage.StorageError, match=r"value\.json: not a JSON file"):
        storage.read_json(uri)


def test_delete(folder: str) -> None:
    storage.write_bytes(storage.join(folder, "x", "y", "z"), b"")
    for name in ("kept", "file"):
        storage.write_bytes(storage.join(folder, name), b"")
    for name in ("x", "file"):
        storage.delete(storage.join(folder, name))
        storage.delete(storage.join(folder, name))
    assert names(folder, recursive=True) == ["kept"]


def test_commit(folder: str) -> None:
    uri = storage.join(folder, "table")
    storage.write_table(uri, TABLE)
    assert storage.committed(uri) is None
    storage.commit(uri, {"rows": 3})
    assert storage.committed(uri) == {"rows": 3}
    assert storage.read_table(uri, SCHEMA).equals(TABLE)  # _SUCCESS is not data


def test_read_table_of_one_split_and_column(folder: str) -> None:
    storage.write_table(folder, TABLE)
    read = storage.read_table(folder, SCHEMA, columns=["image_id"], split="train")
    assert read.to_pydict() == {"image_id": ["a", "c"]}


def test_read_table_errors(folder: str) -> None:
    with pytest.raises(storage.StorageError, match="nothing: no such table"):
        storage.read_table(storage.join(folder, "nothing"), SCHEMA)
    storage.write_table(storage.join(folder, "table"), TABLE)
    wanted = pa.schema({"image_id": pa.string(), "caption": pa.string()})
    with pytest.raises(
        storage.StorageError, match=r"table: column 'caption' is missing \(found: image_id, split\)"
    ):
        storage.read_table(storage.join(folder, "table"), wanted)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        storage.write_bytes(f"{tmp_path}/taken", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "file: no space left there; free some and run the same command again"),
        (errno.EACCES, "file: permission denied; use another place"),
    ],
)
def test_a_disk_that_takes_nothing(
    code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(storage.StorageError, match=message):
        storage.write_bytes(f"{tmp_path}/file", b"data")
    assert not any(tmp_path.iterdir())


def test_a_write_replaces_the_file_in_one_step(tmp_path: Path) -> None:
    uri = f"{tmp_path}/file"
    storage.write_bytes(uri, b"old")
    with Path(uri).open("rb") as reader:  # holds the old file open, and must not see the new one
        storage.write_bytes(uri, b"new")
        assert reader.read() == b"old"
    assert Path(uri).read_bytes() == b"new"
    assert names(str(tmp_path)) == ["file"]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA7:hunter2@bucket/a",
        "s3://AKIA7:hun/ter2/hunter2@bucket/a",  # half of all secrets have a slash
        "S3://AKIA7:hunter2@bucket/a",
        "s3://bucket/a?access_key=AKIA7&secret_key=hunter2",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    for refuses in (storage.resolve, storage.check_secrets):
        with pytest.raises(
            storage.StorageError, match="credentials and endpoints do not"
        ) as caught:
            refuses(uri)
        assert "hunter2" not in str(caught.value)
        assert "ter2" not in str(caught.value)
        assert "AKIA7" not in str(caught.value)
        assert "/a: credentials" in str(caught.value)


def test_a_scheme_in_capitals(s3: str) -> None:
    folder = "S3" + s3.removeprefix("s3") + "/capitals"
    storage.write_bytes(storage.join(folder, "a"), b"x")
    assert list(storage.list_files(folder)) == [storage.join(s3, "capitals", "a")]


def test_a_text_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(storage.StorageError, match=r"a\.txt: not UTF-8 .*; convert it"):
        storage.read_text(str(tmp_path / "a.txt"))


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(storage.StorageError, match="scheme 'gopher' is not known; use a local"):
        storage.resolve("gopher://host/x")


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path.resolve())
    assert storage.absolute("a/b") == f"{here}/a/b"
    assert storage.absolute(f"file://{here}/a") == f"{here}/a"


def test_keys_of_s3_are_taken_as_they_are(s3: str) -> None:
    uri = storage.join(s3, "a b#1.txt")
    storage.write_bytes(uri, b"x")
    assert list(storage.list_files(s3)) == [uri]
    assert storage.absolute(uri) == uri
    assert storage.read_bytes(uri) == b"x"


@pytest.mark.parametrize(
    "key", ["what?.jpg", "a?b=c&d=e.jpg", "no#1.jpg", "100%25.jpg", "50%.jpg", "ü 写.jpg"]
)
def test_keys_and_paths_mean_themselves(folder: str, key: str) -> None:
    uri = storage.join(folder, key)
    storage.write_bytes(uri, b"x")
    assert names(folder) == [key]
    assert storage.read_bytes(uri) == b"x"
    assert storage.read_bytes(storage.absolute(uri)) == b"x"


def test_file_uris_are_percent_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a b#1 50%.txt"
    path.write_bytes(b"x")
    assert storage.read_bytes(path.as_uri()) == b"x"


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3://-/a", "s3://a b/c"])
def test_what_is_no_bucket(uri: str) -> None:
    with pytest.raises(storage.StorageError, match="is not a bucket name"):
        storage.resolve(uri)


def test_secrets_behind_a_key_are_refused() -> None:
    for query in (
        "a?b?secret_key=hunter2",
        "a?x=1&endpoint_override=hunter2",
        "a?X-Amz-Signature=hunter2",
    ):
        with pytest.raises(storage.StorageError, match="do not belong in a URI") as caught:
            storage.resolve(f"s3://bucket/{query}")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("path", ["a\0b", "loop"])
def test_what_is_no_path(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(storage.StorageError, match="not a path on this machine"):
        storage.resolve(str(tmp_path / path))


def test_a_file_where_a_directory_is_expected(tmp_path: Path) -> None:
    photo = str(tmp_path / "photo.jpg")
    storage.write_bytes(photo, b"x")
    below = storage.join(photo, "table")
    assert not storage.exists(below)
    assert [*storage.list_files(below)] == []
    for action in (
        storage.committed,
        storage.read_bytes,
        lambda uri: storage.write_bytes(uri, b"x"),
    ):
        with pytest.raises(storage.StorageError, match=r"photo\.jpg/table"):
            action(below)
    with pytest.raises(storage.StorageError, match=r"photo\.jpg: a file is where a directory"):
        list(storage.list_files(photo))
    with pytest.raises(storage.StorageError, match=r"photo\.jpg/table: no such table"):
        storage.read_table(below, SCHEMA)
    with pytest.raises(storage.StorageError, match=r"photo\.jpg: not a table of Parquet files"):
        storage.read_table(photo, SCHEMA)
