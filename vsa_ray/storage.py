"""Any URI to a file system, and writes that are there completely or not at all.

A URI is a local path, `file:///path`, or `s3://bucket/key`. Credentials, region and endpoint of S3
come from the environment alone (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL, an instance role, ...), as for every AWS tool; a URI that carries them is refused,
since URIs end up in logs.

A stage's output is a directory. Its data files are written first, each under its final name in one
atomic step; `commit` then writes `_SUCCESS`, a small JSON file that says what was made and from
what. Readers trust a directory only with that file in it. Names that start with `_` are not data,
for us as for every other Parquet reader.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq

SUCCESS = "_SUCCESS"


class StorageError(ValueError):
    """A URI that does not work, with what to do about it."""


def resolve(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a URI, and the path on it (for S3: "bucket/key").

    Raises:
        StorageError: an unknown scheme, or a URI that carries credentials.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if "@" in parts.netloc or parts.query:
            # '?' would be fine in a key, but pyarrow reads credentials from there.
            raise StorageError(
                f"s3://{parts.netloc.rpartition('@')[2]}{parts.path}: credentials and endpoints do "
                "not belong in a URI; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
                "AWS_ENDPOINT_URL in the environment"
            )
        return _bucket(parts.netloc, *_s3_settings()), uri.removeprefix("s3://").rstrip("/")
    if parts.scheme in ("", "file") or len(parts.scheme) == 1:
        path = parts.path if parts.scheme == "file" else uri
        return pyarrow.fs.LocalFileSystem(), str(Path(path).expanduser().resolve())
    raise StorageError(f"{uri}: scheme {parts.scheme!r} is not known; use a local path or s3://")


def _s3_settings() -> tuple[str, ...]:
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")
    return tuple(os.environ.get(name, "") for name in names)


@lru_cache(maxsize=32)
def _bucket(name: str, *_settings: str) -> pyarrow.fs.FileSystem:
    """One client a bucket, since making one takes requests; a new one for other settings."""
    # from_uri, unlike S3FileSystem(), finds the region of the bucket.
    filesystem, _ = pyarrow.fs.FileSystem.from_uri(f"s3://{name}/")
    return filesystem


def absolute(uri: str) -> str:
    """The URI as every process of a cluster understands it: local paths made absolute."""
    filesystem, path = resolve(uri)
    return f"s3://{path}" if isinstance(filesystem, pyarrow.fs.S3FileSystem) else path


def join(uri: str, *names: str) -> str:
    """The URI of something below a directory."""
    return "/".join([uri.rstrip("/"), *names])


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type is not pyarrow.fs.FileType.NotFound


def is_directory(uri: str) -> bool:
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type is pyarrow.fs.FileType.Directory


def list_files(uri: str, *, recursive: bool = False) -> Iterator[str]:
    """URIs of the files in a directory, in order of their names; empty where it is missing."""
    filesystem, path = resolve(uri)
    selector = pyarrow.fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    scheme = "s3://" if isinstance(filesystem, pyarrow.fs.S3FileSystem) else ""
    for info in sorted(filesystem.get_file_info(selector), key=lambda info: info.path):
        if info.is_file:
            yield scheme + info.path


def size(uri: str) -> int:
    """Bytes of all files in a directory."""
    filesystem, path = resolve(uri)
    selector = pyarrow.fs.FileSelector(path, allow_not_found=True)
    return sum(info.size for info in filesystem.get_file_info(selector) if info.is_file)


def read_bytes(uri: str) -> bytes:
    """Raises FileNotFoundError or OSError as the file system does."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        data: bytes = stream.read()
    return data


def read_text(uri: str) -> str:
    return read_bytes(uri).decode("utf-8")


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file in one atomic step: a reader sees the old one or the new one, never a part."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pyarrow.fs.S3FileSystem):
        with filesystem.open_output_stream(path) as stream:  # an upload shows when it is complete
            stream.write(data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"_{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_json(uri: str, value: object) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(uri: str) -> Any:
    """Raises StorageError where the file is not JSON."""
    data = read_bytes(uri)  # its own errors name no credentials; the one below names the URI
    try:
        return json.loads(data)
    except ValueError as error:
        raise StorageError(f"{uri}: not a JSON file ({error})") from error


def delete(uri: str) -> None:
    """Remove a directory and all below it; no error where there is none."""
    filesystem, path = resolve(uri)
    if filesystem.get_file_info(path).type is pyarrow.fs.FileType.Directory:
        filesystem.delete_dir(path)


def download(uri: str, directory: Path) -> Path:
    """A local path of one file, for libraries that only open paths; a local file is not copied."""
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        return Path(path)
    target = directory / os.path.basename(path)  # noqa: PTH119 - `path` is a key, not a local path
    pyarrow.fs.copy_files(path, str(target), source_filesystem=filesystem)
    return target


def write_table(uri: str, table: pa.Table) -> None:
    """A small table as a committed directory of one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(join(uri, "part-00000.parquet"), sink.getvalue().to_pybytes())


def read_table(
    uri: str, schema: pa.Schema, *, columns: list[str] | None = None, split: str | None = None
) -> pa.Table:
    """A table of ours, into memory; optionally some columns, or one split of the corpus.

    Raises:
        StorageError: nothing is there, or a column of `schema` is missing.
    """
    dataset, where = _dataset(uri, schema, split)
    table: pa.Table = dataset.to_table(columns=columns or schema.names, filter=where)
    return table


def read_blocks(
    uri: str, schema: pa.Schema, *, columns: list[str], split: str
) -> Iterator[pa.Table]:
    """One split of a table, a block of rows at a time: for tables that memory may not hold.

    Raises:
        StorageError: nothing is there, or a column of `schema` is missing.
    """
    dataset, where = _dataset(uri, schema, split)
    for batch in dataset.to_batches(columns=columns, filter=where, batch_size=256):
        if len(batch):
            yield pa.Table.from_batches([batch])


def _dataset(uri: str, schema: pa.Schema, split: str | None) -> tuple[Any, Any]:
    filesystem, path = resolve(uri)
    try:
        dataset = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet")
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: no such table") from error
    missing = [name for name in schema.names if name not in dataset.schema.names]
    if missing:
        raise StorageError(
            f"{uri}: column {missing[0]!r} is missing (found: {', '.join(dataset.schema.names)}); "
            "is this the right table?"
        )
    return dataset, None if split is None else pyarrow.dataset.field("split") == split


def commit(uri: str, description: dict[str, Any]) -> None:
    """Mark a directory as complete. `description` tells what made it; see `committed`."""
    write_json(join(uri, SUCCESS), description)


def committed(uri: str) -> dict[str, Any] | None:
    """What `commit` wrote, or None where the directory is not complete."""
    try:
        description: dict[str, Any] = read_json(join(uri, SUCCESS))
    except FileNotFoundError:
        return None
    return description
