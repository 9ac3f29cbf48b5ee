"""Users' lists of images: text, CSV or Parquet files of URIs, with or without ids."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from vsa_ray import inputs, storage

SUFFIXES = (".csv", ".parquet", ".txt")

URI_COLUMNS = ("uri", "url", "path")
ID_COLUMNS = ("image_id", "id")
DATA_COLUMNS = ("bytes", "image", "image_bytes")

ROWS_AT_ONCE = 1024


def data_column(file: str) -> tuple[str, str]:
    """Names of the columns of image bytes and of ids in a Parquet file; "" for none."""
    _, schema = inputs.footer(file)
    data = (name for name in DATA_COLUMNS if name in schema.names)
    binary = (name for name in data if "binary" in str(schema.field(name).type))
    return next(binary, ""), _first(ID_COLUMNS, schema.names)


def read(file: str) -> Iterator[dict[str, str]]:
    """Rows of schema.IMAGES. The id of an image without one is its URI as written in the list.

    Relative paths are relative to the folder of the list.

    Raises:
        storage.StorageError: there is no column of URIs, a URI is empty or has an unknown scheme,
            or the list is not UTF-8.
    """
    try:
        yield from _read(file)
    except UnicodeDecodeError as error:
        raise storage.StorageError(f"{file}: not UTF-8 ({error}); convert it") from error


def _read(file: str) -> Iterator[dict[str, str]]:
    folder = storage.absolute(file).rpartition("/")[0]
    for number, row in enumerate(_rows(file), start=1):
        uri = str(row["uri"] or "").strip()
        if not uri:
            raise storage.StorageError(f"{file}: row {number} has no URI")
        yield {
            "image_id": str(row["image_id"]) if row["image_id"] not in (None, "") else uri,
            "uri": _absolute(uri, folder, f"{file}: row {number}"),
            "split": str(row["split"] or ""),
        }


def _absolute(uri: str, folder: str, where: str) -> str:
    scheme, separator, _ = uri.partition("://")
    if separator:
        if scheme.lower() not in ("s3", "file"):
            raise storage.StorageError(
                f"{where}: {uri}: scheme {scheme!r} is not known; use a path or s3://"
            )
        return uri
    return uri if uri.startswith("/") else f"{folder}/{uri}"


def _rows(file: str) -> Iterator[dict[str, Any]]:
    suffix = PurePosixPath(file).suffix.lower()
    if suffix == ".parquet":
        return _of_parquet(file)
    filesystem, path = storage.resolve(file)
    try:
        stream = filesystem.open_input_stream(path)
    except FileNotFoundError as error:
        raise storage.StorageError(f"{file} does not exist") from error
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="" if suffix == ".csv" else None)
    return _of_csv(file, lines) if suffix == ".csv" else _of_text(lines)


def _of_text(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    return ({"uri": line, "image_id": None, "split": ""} for line in lines if line.strip())


def _of_csv(file: str, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    rows = csv.DictReader(lines)
    names = _columns(file, list(rows.fieldnames or []))
    for row in rows:
        yield {name: row.get(column) if column else None for name, column in names.items()}


def _of_parquet(file: str) -> Iterator[dict[str, Any]]:
    _, schema = inputs.footer(file)
    names = {name: column for name, column in _columns(file, schema.names).items() if column}
    filesystem, path = storage.resolve(file)
    with pq.ParquetFile(path, filesystem=filesystem) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=list(names.values())):
            for row in batch.to_pylist():
                found = {name: row[column] for name, column in names.items()}
                yield {"image_id": None, "split": None, **found}


def _columns(file: str, found: list[str]) -> dict[str, str]:
    """The list's names for our columns; "" for a missing one."""
    uri = _first(URI_COLUMNS, found)
    if not uri:
        raise storage.StorageError(
            f"{file}: no column {' or '.join(URI_COLUMNS)} (found: {', '.join(found) or 'none'}); "
            "a list of images needs one, or, in Parquet, a column of bytes "
            f"({', '.join(DATA_COLUMNS)})"
        )
    return {"uri": uri, "image_id": _first(ID_COLUMNS, found), "split": _first(("split",), found)}


def _first(wanted: Iterable[str], found: Iterable[str]) -> str:
    return next((name for name in wanted if name in found), "")
