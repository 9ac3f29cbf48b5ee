"""List all images of an input once, before a job starts, in parts that survive a kill.

    folder or s3:// prefix   images at any depth; image_id is the path below it
    list (txt, csv, parquet) see manifests.py
    tar files                see shards.py; a file, or a folder of them
    Parquet with bytes       see inputs.py; a file, or a folder of them
    our `images` table       is already a listing

A resumed job uses its existing listing, so rows keep their numbers even if a folder has grown.
Listing is streamed: each part is written when it is full, and the driver only holds one part, and 8
bytes per image to check that ids are unique where file names do not guarantee it.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vsa_ray import inputs, manifests, s3, schema, shards, storage
from vsa_ray.corpora.layouts import IMAGE_SUFFIXES
from vsa_ray.files import files_below
from vsa_ray.inputs import Columns, Inputs, Part
from vsa_ray.outputs import JOB

logger = logging.getLogger(__name__)

FOLDER = "_inputs"
"""Folder below an output with the listing of its input."""

PART_ROWS = 1024

SUFFIXES = (*manifests.SUFFIXES, ".tar")

Each = Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]]
"""Calls a function for each item, anywhere; results come in any order. `map` is an example."""


def list_images(uri: str, out: str, each: Each = map) -> Inputs:
    """The images at a URI, in parts; lists them into OUT/_inputs if that is not done yet.

    Args:
        each: used to inspect the files of a large input in parallel.

    Raises:
        storage.StorageError: there is no known kind of input, or an id is not unique.
    """
    if is_table(uri):
        return inputs.of_table(uri, schema.IMAGES.names)
    folder = storage.join(out, FOLDER)
    if (listed := storage.committed(folder)) is None:
        logger.info("listing the images of %s", uri)
        name = uuid.uuid4().hex
        own_list = {"folder": name, **_list(uri, storage.join(folder, name), each)}
        # If a job was started twice the first listing counts: row numbers refer to it.
        if (listed := storage.committed(folder)) is None:
            listed = own_list
            storage.commit(folder, listed)
    folder = storage.join(folder, listed["folder"])
    logger.info("%s: %d images", uri, sum(listed["rows"]))
    if listed["kind"] == "parquet":
        parts = [Part(**row) for row in _rows(storage.join(folder, "files.parquet"))]
        return Inputs(parts, Columns(**listed["columns"]))
    parts = [Part(_part(folder, i), rows) for i, rows in enumerate(listed["rows"])]
    return Inputs(parts, Columns())


def is_table(uri: str) -> bool:
    """Whether there is a finished table of ours, as opposed to one of Spark's."""
    found = storage.is_directory(uri) and storage.committed(uri) is not None
    return found and storage.exists(storage.join(uri, JOB))


def kind_of(uri: str) -> str:
    """The kind of an input: "folder", "list", "shards" or "parquet".

    For a folder, the files directly in it decide; images take precedence.

    Raises:
        storage.StorageError: it does not exist, or is of an unknown kind.
    """
    if storage.is_directory(uri):
        return _kind_of_folder(uri)
    if not storage.exists(uri):
        raise storage.StorageError(f"{uri} does not exist")
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix == ".parquet":
        return "parquet" if manifests.data_column(uri)[0] else "list"
    if suffix not in SUFFIXES:
        raise storage.StorageError(
            f"{uri} is a file; give the directory that holds it, or a {', '.join(SUFFIXES)} file"
        )
    return "shards" if suffix == ".tar" else "list"


def _kind_of_folder(uri: str) -> str:
    found = set()
    for file in files_below(uri, depth=1):
        suffix = PurePosixPath(file).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            return "folder"
        found.add(suffix)
    return "shards" if ".tar" in found else "parquet" if ".parquet" in found else "folder"


def _list(uri: str, folder: str, each: Each) -> dict[str, Any]:
    uri = storage.absolute(uri)
    kind = kind_of(uri)
    if kind == "folder":
        rows = _write(folder, _of_folder(uri))
        return {"kind": kind, "rows": rows}
    if kind == "list":
        rows, found = s3.with_retries(uri, lambda: _write_list(uri, folder))
        if not rows:
            raise storage.StorageError(f"{uri}: no images in this list")
        _check_unique(uri, [np.frombuffer(found, np.uint64)], _ids(folder, len(rows)))
        return {"kind": kind, "rows": rows}
    suffix = ".tar" if kind == "shards" else ".parquet"
    files = [uri]
    if storage.is_directory(uri):
        files = [file for file in files_below(uri) if file.lower().endswith(suffix)]
    if kind == "parquet":
        return _list_parquet(uri, folder, files, each)
    return _list_shards(uri, folder, files, each)


def _of_folder(uri: str) -> Iterator[dict[str, str]]:
    others, images = Counter[str](), 0
    for file in files_below(uri):
        if not file.lower().endswith(IMAGE_SUFFIXES):
            others[PurePosixPath(file).suffix.lower() or "no suffix"] += 1
            continue
        images += 1
        yield {"image_id": file[len(uri.rstrip("/")) + 1 :], "uri": file, "split": ""}
    if others:
        logger.info("%s: skipping files that are not images: %s", uri, dict(others.most_common(5)))
    if not images:
        deeper = sum(others[suffix] for suffix in SUFFIXES)
        hint = f" ({deeper} {', '.join(SUFFIXES)} in subfolders: give their folder)" * bool(deeper)
        raise storage.StorageError(f"{uri}: no images ({', '.join(IMAGE_SUFFIXES)}) below it{hint}")


def _write(folder: str, rows: Iterator[dict[str, str]]) -> list[int]:
    """Write rows of schema.IMAGES as parts -> number of rows of each."""
    written: list[int] = []
    while some := list(islice(rows, PART_ROWS)):
        table = pa.Table.from_pylist(some, schema=schema.IMAGES)
        _write_table(_part(folder, len(written)), table)
        written.append(len(some))
    return written


def _write_list(uri: str, folder: str) -> tuple[list[int], array[int]]:
    """Write a list as parts -> number of rows of each, and hashes of all ids."""
    hashes = array("Q")
    return _write(folder, _hashed(manifests.read(uri), hashes)), hashes


def _list_shards(uri: str, folder: str, files: list[str], each: Each) -> dict[str, Any]:
    """Every shard becomes a part."""
    root = storage.absolute(uri) if files != [uri] else uri.rpartition("/")[0]
    index = partial(_index_shard, folder, root)
    found = {row["part"]: row for row in each(index, list(enumerate(files)))}
    in_order = [found[i] for i in range(len(files))]
    rows = [row["rows"] for row in in_order]
    if not sum(rows):
        raise storage.StorageError(f"{uri}: no images ({', '.join(IMAGE_SUFFIXES)}) in its shards")
    hashes = [np.frombuffer(row["hashes"], np.uint64) for row in in_order]
    _check_unique(uri, hashes, _ids(folder, len(rows)))
    return {"kind": "shards", "rows": rows}


def _index_shard(folder: str, root: str, shard: tuple[int, str]) -> dict[str, Any]:
    number, uri = shard
    name = uri[len(root.rstrip("/")) + 1 :].removesuffix(".tar")
    rows = s3.with_retries(uri, lambda: list(shards.members(uri, name)))
    hashes = array("Q", (_hash(row["image_id"]) for row in rows))
    _write_table(_part(folder, number), pa.Table.from_pylist(rows, schema=shards.MEMBERS))
    return {"part": number, "rows": len(rows), "hashes": hashes.tobytes()}


def _list_parquet(uri: str, folder: str, files: list[str], each: Each) -> dict[str, Any]:
    """Every row group of every file is a part; only a reference to it is written."""
    data, image_id = manifests.data_column(files[0])
    if not data:
        raise storage.StorageError(
            f"{files[0]}: no column of image bytes ({', '.join(manifests.DATA_COLUMNS)})"
        )
    index = partial(_index_parquet, data, image_id)
    found = {row["file"]: row for row in each(index, list(enumerate(files)))}
    in_order = [found[i] for i in range(len(files))]
    parts = []
    for file, row in zip(files, in_order, strict=True):
        starts = np.cumsum([0, *row["rows"]]).tolist()
        parts += [
            {"uri": file, "rows": rows, "row_group": group, "start": starts[group]}
            for group, rows in enumerate(row["rows"])
            if rows
        ]
    if image_id:
        hashes = [np.frombuffer(row["hashes"], np.uint64) for row in in_order]
        ids = (one for file in files for column in _column(file, image_id) for one in column)
        _check_unique(uri, hashes, ids)
    _write_table(storage.join(folder, "files.parquet"), pa.Table.from_pylist(parts))
    columns = {"data": data, "image_id": image_id}
    return {"kind": "parquet", "rows": [part["rows"] for part in parts], "columns": columns}


def _index_parquet(data: str, image_id: str, file: tuple[int, str]) -> dict[str, Any]:
    number, uri = file
    metadata, found = inputs.footer(uri)
    for column in (data, image_id):
        if column and column not in found.names:
            raise storage.StorageError(f"{uri}: no column {column!r}, unlike the files before it")
    hashes = array("Q")
    if image_id:
        hashes = s3.with_retries(uri, lambda: _hashes_of(uri, image_id))
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return {"file": number, "rows": rows, "hashes": hashes.tobytes()}


def _hashes_of(uri: str, image_id: str) -> array[int]:
    return array("Q", (_hash(one) for column in _column(uri, image_id) for one in column))


def _column(uri: str, name: str) -> Iterator[list[str]]:
    with _open(uri) as parquet:
        at = 0
        for batch in parquet.iter_batches(columns=[name]):
            values = batch[name].to_pylist()
            yield [f"{uri}#{at + i}" if one is None else str(one) for i, one in enumerate(values)]
            at += len(batch)


def _hash(image_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest())


def _hashed(rows: Iterator[dict[str, Any]], hashes: array[int]) -> Iterator[dict[str, Any]]:
    for row in rows:
        hashes.append(_hash(row["image_id"]))
        yield row


def _check_unique(uri: str, hashes: list[np.ndarray[Any, Any]], ids: Iterator[str]) -> None:
    """Raise StorageError for a duplicate id; `ids` is only read if two hashes are equal."""
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    twice = {*values[counts > 1].tolist()}
    if not twice:
        return
    seen: set[str] = set()
    for image_id in ids:
        if _hash(image_id) in twice:
            if image_id in seen:
                raise storage.StorageError(
                    f"{uri}: two images have the id {image_id!r}; ids identify images in the "
                    "result, so they must be unique"
                )
            seen.add(image_id)


def _ids(folder: str, parts: int) -> Iterator[str]:
    for i in range(parts):
        for column in _column(_part(folder, i), "image_id"):
            yield from column


def _part(folder: str, number: int) -> str:
    return storage.join(folder, f"part-{number:06d}.parquet")


def _write_table(uri: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def _rows(uri: str) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        with _open(uri) as parquet:
            rows: list[dict[str, Any]] = parquet.read().to_pylist()
        return rows

    return s3.with_retries(uri, read)


def _open(uri: str) -> pq.ParquetFile:
    filesystem, path = storage.resolve(uri)
    return pq.ParquetFile(path, filesystem=filesystem)
