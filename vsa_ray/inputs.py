"""What a job reads, in parts of known numbers of rows, and slices of them that become batches.

A part is a Parquet file or a row group of one: of our own tables a file, of a listing (listing.py)
up to 1,024 images, of somebody's Parquet with the images' bytes in it a row group. Plain data that
travels to tasks; reading holds little more than a slice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vsa_ray import s3, storage
from vsa_ray.spans import Span, span_of

READERS = 32
"""Footers that are read at once."""

BUFFER_BYTES = 8 * 2**20
"""Of a column of a row group, read at once."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that are numbered from 0."""

    uri: str
    rows: int
    row_group: int = -1
    """-1: the file is one part."""

    start: int = 0
    """Number of the first row in its file."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What is read of a part."""

    names: tuple[str, ...] = ()
    """Columns of a table of ours; none: all of them."""

    data: str = ""
    """In somebody's Parquet, the column of images' bytes; rows become schema.IMAGES + `bytes`."""

    image_id: str = ""
    """There, the column of ids; none: FILE#ROW."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a job reads."""

    parts: list[Part]
    columns: Columns

    @property
    def rows(self) -> list[int]:
        """Of each part."""
        return [part.rows for part in self.parts]


def of_table(uri: str, columns: Sequence[str] = ()) -> Inputs:
    """A finished `images` or `regions` table.

    Raises:
        storage.StorageError: there is no such table.
    """
    files = [file for file in storage.list_files(uri) if is_part(file)]
    if not files:
        raise storage.StorageError(f"{uri}: no such table")
    with ThreadPoolExecutor(READERS) as pool:
        rows = list(pool.map(_rows, files))
    return Inputs([Part(*one) for one in zip(files, rows, strict=True)], Columns(tuple(columns)))


def is_part(file: str) -> bool:
    """Whether a file of a directory is one of its Parquet files."""
    return file.endswith(".parquet") and not file.rpartition("/")[2].startswith("_")


def _rows(file: str) -> int:
    span = span_of(file)  # without a request for each file of a large table
    return int(footer(file)[0].num_rows) if span is None else span.rows


def footer(file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    """What a Parquet file says of itself.

    Raises:
        storage.StorageError: it is missing, or none.
    """

    def read() -> tuple[pq.FileMetaData, pa.Schema]:
        filesystem, path = storage.resolve(file)
        with pq.ParquetFile(path, filesystem=filesystem) as parquet:
            return parquet.metadata, parquet.schema_arrow

    try:
        return s3.patiently(file, read)
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise storage.StorageError(f"{file}: not a Parquet file ({error})") from error


def slices(
    part: Part, columns: Columns, gaps: Sequence[Span], size: int
) -> Iterator[tuple[Span, pa.Table]]:
    """The rows of some gaps of a part, in order, `size` at a time; fewer at the end of a gap.

    A job that goes on after a kill has gaps that start where slices started, so that its slices,
    and with them the batches that a model sees, are those of an undisturbed run.
    """
    at, held = 0, None
    batches = _batches(part, columns, size)
    for gap in gaps:
        for first in range(gap.first, gap.stop, size):
            span = Span(gap.part, first, min(first + size, gap.stop))
            while held is None or at + len(held) < span.stop:
                if held is not None and (done := min(span.first - at, len(held))):
                    at, held = at + done, held.slice(done) if done < len(held) else None
                more = next(batches)
                held = more if held is None else pa.concat_tables([held, more])
            yield span, held.slice(span.first - at, span.rows)


def _batches(part: Part, columns: Columns, size: int) -> Iterator[pa.Table]:
    """All rows of a part. What fails in passing is tried again, from where it failed."""
    names = [name for name in (columns.data, columns.image_id) if name] or list(columns.names)
    read, failing_since = 0, 0.0
    for wait in s3.waits():
        try:
            for table in _read(part, names, size, skip=read):
                yield _images(table, part, columns, read) if columns.data else table
                read, failing_since = read + len(table), 0.0
        except OSError as error:
            if not s3.is_passing(error):
                s3.check_credentials(part.uri, error)
                raise
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > s3.PATIENCE_SECONDS:
                raise s3.StorageOutage(f"{part.uri}: storage does not answer ({error})") from error
            time.sleep(wait)
        else:
            return


def _read(part: Part, names: list[str], size: int, *, skip: int) -> Iterator[pa.Table]:
    filesystem, path = storage.resolve(part.uri)
    groups = None if part.row_group < 0 else [part.row_group]
    # A file of ours is small: all of it in one request. Of a row group of somebody's, which may be
    # as large as memory, no more than is used.
    options = {"pre_buffer": False, "buffer_size": BUFFER_BYTES} if groups else {}
    with pq.ParquetFile(path, filesystem=filesystem, **options) as parquet:
        for batch in parquet.iter_batches(size, row_groups=groups, columns=names or None):
            if skip < len(batch):
                yield pa.Table.from_batches([batch.slice(skip)])
            skip = max(0, skip - len(batch))


def _images(table: pa.Table, part: Part, columns: Columns, at: int) -> pa.Table:
    """Rows of somebody's Parquet as an images table with bytes."""
    data = table[columns.data]
    if pa.types.is_struct(data.type):  # {bytes, path}, as Hugging Face's data sets have it
        data = pc.struct_field(data, "bytes")
    uris = [f"{part.uri}#{part.start + at + i}" for i in range(len(table))]
    ids = uris
    if columns.image_id:
        ids = pc.coalesce(table[columns.image_id].cast(pa.string()), pa.array(uris))
    return pa.table({"image_id": ids, "uri": uris, "split": [""] * len(table), "bytes": data})
