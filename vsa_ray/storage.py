"""Any URI to a file system, and writes that are there completely or not at all.

A URI is a local path, `file:///path`, or `s3://bucket/key`. Credentials, region and endpoint of S3
come from the environment alone (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL, an instance role, ...), as for every AWS tool; a URI that carries them, as
s3://key:secret@bucket or in a query, is refused, since URIs end up in logs. Beside that a key is
taken as it is, with ?, #, % and spaces in it; so is a local path, but `file://` is percent-decoded.

Failures of S3 that pass are waited for (s3.py): reading, listing and writing here bear minutes of
them.

A stage's output is a directory. Its data files are written first, each under its final name in one
atomic step; `commit` then writes `_SUCCESS`, a small JSON file that says what was made and from
what. Readers trust a directory only with that file in it. Names that start with `_` are not data,
for us as for every other Parquet reader.
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

PARTIAL = ".partial"  # ends the name of a local file that was not written to its end

BLOCK_ROWS = 256
"""Rows that `read_blocks` gives at once."""

Result = TypeVar("Result")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")

_SECRETS = re.compile(
    r"(?:^|[?&])(access_key|secret_key|session_token|role_arn|external_id|endpoint_override"
    r"|awsaccesskeyid|x-amz-credential|x-amz-signature|x-amz-security-token)=",
    re.IGNORECASE,
)
"""Of pyarrow's URIs, and of signed ones."""


class StorageError(UserError):
    """A URI that does not work, with what to do about it."""


def resolve(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a URI, and the path on it (for S3: "bucket/key").

    Raises:
        StorageError: an unknown scheme, no such path, or a URI that carries credentials.
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
    """Refuse "bucket/key" where it holds what must not be in logs; does not repeat it."""
    rest, _, query = rest.partition("?")
    bucket = rest.partition("/")[0]
    # A secret may hold a slash: then what looks like a bucket is the id of a key, and its colon.
    if "@" in bucket or ":" in bucket or _SECRETS.search(query):
        place = rest.rpartition("@")[2] if ":" not in rest or "@" in rest else "..."
        raise StorageError(
            f"s3://{place}: credentials and endpoints do not belong in a URI, but in the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(f"s3://{rest}: {bucket!r} is no name of a bucket; use s3://bucket/key")


def check_secrets(uri: str) -> None:
    """Raise StorageError where a URI carries credentials; asks nobody."""
    if uri.lower().startswith("s3://"):
        _check_s3(uri[len("s3://") :])


def _on(uri: str, action: Callable[[pyarrow.fs.FileSystem, str], Result]) -> Result:
    """`action(filesystem, path)`, patiently: see s3.py.

    Raises StorageError where a file is in the place of a directory, or S3 or the disk refuses;
    StorageOutage where storage fails and goes on failing.
    """
    try:
        return s3.patiently(uri, lambda: action(*resolve(uri)))
    except NotADirectoryError as error:
        raise StorageError(f"{uri}: a file is where a directory was expected") from error
    except OSError as error:
        if reason := s3.refusal(error):
            raise StorageError(f"{uri}: {reason}") from error
        raise


def absolute(uri: str) -> str:
    """The URI as every process of a cluster understands it: local paths made absolute."""
    filesystem, path = resolve(uri)
    return f"s3://{path}" if isinstance(filesystem, pyarrow.fs.S3FileSystem) else path


def is_local(uri: str) -> bool:
    """Whether it is a path, which may mean another place on each machine."""
    return isinstance(resolve(uri)[0], pyarrow.fs.LocalFileSystem)


def join(uri: str, *names: str) -> str:
    """The URI of something below a directory."""
    return "/".join([uri.rstrip("/"), *names])


def exists(uri: str) -> bool:
    return _type(uri) is not pyarrow.fs.FileType.NotFound


def is_directory(uri: str) -> bool:
    return _type(uri) is pyarrow.fs.FileType.Directory


def _type(uri: str) -> pyarrow.fs.FileType:
    return _on(uri, lambda filesystem, path: filesystem.get_file_info(path).type)


def list_files(uri: str, *, recursive: bool = False) -> Iterator[str]:
    """URIs of the files in a directory, in order of their names; empty where it is missing."""

    def listed(filesystem: pyarrow.fs.FileSystem, path: str) -> list[pyarrow.fs.FileInfo]:
        selector = pyarrow.fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        return [info for info in filesystem.get_file_info(selector) if info.is_file]

    for info in sorted(_on(uri, listed), key=lambda info: info.path):
        yield ("" if is_local(uri) else "s3://") + info.path


def read_bytes(uri: str) -> bytes:
    """Raises FileNotFoundError or OSError as the file system does."""

    def read(filesystem: pyarrow.fs.FileSystem, path: str) -> bytes:
        with filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read()
        return data

    return _on(uri, read)


def read_text(uri: str) -> str:
    """Raises StorageError where it is not UTF-8."""
    try:
        return read_bytes(uri).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{uri}: not UTF-8 ({error}); convert it") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file in one atomic step: a reader sees the old one or the new one, never a part."""

    def write(filesystem: pyarrow.fs.FileSystem, path: str) -> None:
        if not isinstance(filesystem, pyarrow.fs.S3FileSystem):
            _write_local(Path(path), data)
            return
        with filesystem.open_output_stream(path) as stream:  # an upload shows when it is complete
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
    """Raises StorageError where the file is not JSON."""
    data = read_bytes(uri)
    try:
        return json.loads(data)
    except ValueError as error:
        raise StorageError(f"{uri}: not a JSON file ({error})") from error


def delete(uri: str) -> None:
    """Remove a file, or a directory and all below it; no error where there is none."""

    def remove(filesystem: pyarrow.fs.FileSystem, path: str) -> None:
        match filesystem.get_file_info(path).type:
            case pyarrow.fs.FileType.Directory:
                filesystem.delete_dir(path)
            case pyarrow.fs.FileType.File:
                filesystem.delete_file(path)

    _on(uri, remove)


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
    return s3.patiently(
        uri, lambda: dataset.to_table(columns=columns or schema.names, filter=where)
    )


def read_blocks(
    uri: str, schema: pa.Schema, *, columns: list[str], split: str | None = None
) -> Iterator[pa.Table]:
    """A table or one split of it, a block of rows at a time: for what memory may not hold.

    Raises:
        StorageError: nothing is there, or a column of `schema` is missing.
    """
    dataset, where = _dataset(uri, schema, split)
    options = {"columns": columns, "filter": where, "schema": dataset.schema}
    for fragment in dataset.get_fragments():  # a file; one is small, and can be read again
        rows = s3.patiently(uri, partial(fragment.to_table, **options))
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
    """Mark a directory as complete. `description` tells what made it; see `committed`."""
    write_json(join(uri, SUCCESS), description)


def committed(uri: str) -> dict[str, Any] | None:
    """What `commit` wrote, or None where the directory is not complete, or Spark's."""
    try:
        description = json.loads(read_bytes(join(uri, SUCCESS)))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return description if isinstance(description, dict) else None
