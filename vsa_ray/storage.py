"""File systems for any URI, and atomic writes.

A URI is a local path, `file:///path`, or `s3://bucket/key`. S3 credentials, region and endpoint
come only from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL, an instance role, ...), as for every AWS tool. URIs that contain them, as
s3://key:secret@bucket or in a query, are refused, since URIs end up in logs. Apart from that, keys
are taken literally, including ?, #, % and spaces; so are local paths, but `file://` is decoded.

Transient S3 failures are retried (s3.py): reading, listing and writing survive minutes of them.

A stage's output is a directory. Its data files are written first, each atomically under its final
name; `commit` then writes `_SUCCESS`, a small JSON file that says what was made from what. Readers
trust a directory only if it contains that file. Files whose names start with `_` are not data, as
for every other Parquet reader.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq

from vsa_ray import s3
from vsa_ray.errors import UserError

SUCCESS = "_SUCCESS"

PARTIAL = ".partial"  # suffix of a local file that is not completely written

BLOCK_ROWS = 256
"""Rows per block of `read_blocks`."""

Result = TypeVar("Result")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")

_SECRETS = re.compile(
    r"(?:^|[?&])(access_key|secret_key|session_token|role_arn|external_id|endpoint_override"
    r"|awsaccesskeyid|x-amz-credential|x-amz-signature|x-amz-security-token)=",
    re.IGNORECASE,
)
"""Query parameters of pyarrow's URIs, and of signed ones."""


class StorageError(UserError):
    """A URI that does not work; the message says what to do about it."""


def resolve(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a URI, and the path on it (for S3: "bucket/key").

    Raises:
        StorageError: unknown scheme, invalid path, or a URI that contains credentials.
    """
    found = _SCHEME.match(uri)
    scheme = found[1].lower() if found else ""
    rest = uri[found.end() :] if found else uri
    if scheme == "s3":
        bucket = rest.partition("/")[0]
        _check_s3(rest)
        return s3.filesystem(bucket), rest.rstrip("/")
    if scheme not in ("", "file"):
        raise StorageError(f"{uri}: scheme {scheme!r} is not known; use a local path or s3://")
    try:
        path = Path(unquote(rest) if scheme else rest).expanduser().resolve()
    except (ValueError, RuntimeError, OSError) as error:  # a NUL in it, a loop of links, ...
        raise StorageError(f"{uri!r}: not a path on this machine ({error})") from error
    return pyarrow.fs.LocalFileSystem(), str(path)


def _check_s3(rest: str) -> None:
    """Refuse "bucket/key" if it contains secrets, without repeating them in the message."""
    rest, _, query = rest.partition("?")
    bucket = rest.partition("/")[0]
    # A secret may contain a slash: then what looks like a bucket is "key:" and part of the secret.
    if "@" in bucket or ":" in bucket or _SECRETS.search(query):
        place = rest.rpartition("@")[2] if ":" not in rest or "@" in rest else "..."
        raise StorageError(
            f"s3://{place}: credentials and endpoints do not belong in a URI, but in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(f"s3://{rest}: {bucket!r} is not a bucket name; use s3://bucket/key")


def check_secrets(uri: str) -> None:
    """Raise StorageError if a URI contains credentials; makes no request."""
    if uri.lower().startswith("s3://"):
        _check_s3(uri[len("s3://") :])


def _on(uri: str, action: Callable[[pyarrow.fs.FileSystem, str], Result]) -> Result:
    """`action(filesystem, path)` with retries, see s3.py.

    Raises StorageError if a file is in the place of a directory, or S3 or the disk refuses the
    request, and StorageOutage if storage keeps failing.
    """
    try:
        return s3.with_retries(uri, lambda: action(*resolve(uri)))
    except NotADirectoryError as error:
        raise StorageError(f"{uri}: a file is where a directory was expected") from error
    except OSError as error:
        if reason := s3.refusal(error):
            raise StorageError(f"{uri}: {reason}") from error
        raise


def absolute(uri: str) -> str:
    """The URI in a form that is independent of the working directory."""
    filesystem, path = resolve(uri)
    return f"s3://{path}" if isinstance(filesystem, pyarrow.fs.S3FileSystem) else path


def is_local(uri: str) -> bool:
    """Whether it is a local path, which may mean a different place on each machine."""
    return isinstance(resolve(uri)[0], pyarrow.fs.LocalFileSystem)


def join(uri: str, *names: str) -> str:
    """The URI of a path below a directory."""
    return "/".join([uri.rstrip("/"), *names])


def exists(uri: str) -> bool:
    return _type(uri) is not pyarrow.fs.FileType.NotFound


def is_directory(uri: str) -> bool:
    return _type(uri) is pyarrow.fs.FileType.Directory


def _type(uri: str) -> pyarrow.fs.FileType:
    return _on(uri, lambda filesystem, path: filesystem.get_file_info(path).type)


def list_files(uri: str, *, recursive: bool = False) -> Iterator[str]:
    """URIs of the files in a directory, ordered by name; empty if it does not exist."""

    def listed(filesystem: pyarrow.fs.FileSystem, path: str) -> list[pyarrow.fs.FileInfo]:
        selector = pyarrow.fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        return [info for info in filesystem.get_file_info(selector) if info.is_file]

    for info in sorted(_on(uri, listed), key=lambda info: info.path):
        yield ("" if is_local(uri) else "s3://") + info.path


def read_bytes(uri: str) -> bytes:
    """Read a file. Raises FileNotFoundError or OSError as the file system does."""

    def read(filesystem: pyarrow.fs.FileSystem, path: str) -> bytes:
        with filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read()
        return data

    return _on(uri, read)


def read_text(uri: str) -> str:
    """Read a text file. Raises StorageError if it is not UTF-8."""
    try:
        return read_bytes(uri).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{uri}: not UTF-8 ({error}); convert it") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file atomically: a reader sees the old one or the new one, never a part."""

    def write(filesystem: pyarrow.fs.FileSystem, path: str) -> None:
        if not isinstance(filesystem, pyarrow.fs.S3FileSystem):
            _write_local(Path(path), data)
            return
        with filesystem.open_output_stream(path) as stream:  # uploads only appear when complete
            stream.write(data)

    _on(uri, write)


def _write_local(target: Path, data: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(*error.args) from error
    unfinished = target.with_name(f"_{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(uri: str, value: object) -> None:
    write_bytes(uri, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(uri: str) -> Any:
    """Read a JSON file. Raises StorageError if it is not JSON."""
    data = read_bytes(uri)
    try:
        return json.loads(data)
    except ValueError as error:
        raise StorageError(f"{uri}: not a JSON file ({error})") from error


def delete(uri: str) -> None:
    """Delete a file, or a directory and everything below it; no error if it does not exist."""

    def remove(filesystem: pyarrow.fs.FileSystem, path: str) -> None:
        match filesystem.get_file_info(path).type:
            case pyarrow.fs.FileType.Directory:
                filesystem.delete_dir(path)
            case pyarrow.fs.FileType.File:
                filesystem.delete_file(path)

    _on(uri, remove)


def write_table(uri: str, table: pa.Table) -> None:
    """Write a small table as a directory with one Parquet file; does not commit it."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(join(uri, "part-00000.parquet"), sink.getvalue().to_pybytes())


def read_table(
    uri: str, schema: pa.Schema, *, columns: list[str] | None = None, split: str | None = None
) -> pa.Table:
    """Read a table into memory; optionally only some columns, or one split.

    Raises:
        StorageError: there is no such table, or a column of `schema` is missing.
    """
    dataset, where = _dataset(uri, schema, split)
    return s3.with_retries(
        uri, lambda: dataset.to_table(columns=columns or schema.names, filter=where)
    )


def read_blocks(
    uri: str, schema: pa.Schema, *, columns: list[str], split: str | None = None
) -> Iterator[pa.Table]:
    """Read a table, or one split of it, in blocks of rows: for tables that may exceed memory.

    Raises:
        StorageError: there is no such table, or a column of `schema` is missing.
    """
    dataset, where = _dataset(uri, schema, split)
    options = {"columns": columns, "filter": where, "schema": dataset.schema}
    for fragment in dataset.get_fragments():  # a file: small, and a failed read can be repeated
        rows = s3.with_retries(uri, partial(fragment.to_table, **options))
        yield from (
            pa.Table.from_batches([batch]) for batch in rows.to_batches(BLOCK_ROWS) if len(batch)
        )


def _dataset(uri: str, schema: pa.Schema, split: str | None) -> tuple[Any, Any]:
    try:
        dataset = _on(
            uri,
            lambda filesystem, path: pyarrow.dataset.dataset(
                path, filesystem=filesystem, format="parquet"
            ),
        )
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: no such table") from error
    except pa.ArrowInvalid as error:
        raise StorageError(f"{uri}: not a table of Parquet files ({error})") from error
    missing = [name for name in schema.names if name not in dataset.schema.names]
    if missing:
        raise StorageError(
            f"{uri}: column {missing[0]!r} is missing (found: {', '.join(dataset.schema.names)}); "
            "is this the right table?"
        )
    return dataset, None if split is None else pyarrow.dataset.field("split") == split


def commit(uri: str, description: dict[str, Any]) -> None:
    """Mark a directory as complete. `description` says how it was made; see `committed`."""
    write_json(join(uri, SUCCESS), description)


def committed(uri: str) -> dict[str, Any] | None:
    """What `commit` wrote, or None if the directory is not complete, or was written by Spark."""
    try:
        description = json.loads(read_bytes(join(uri, SUCCESS)))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return description if isinstance(description, dict) else None
