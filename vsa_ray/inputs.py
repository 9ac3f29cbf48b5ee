"""The input of a job, in parts of known size, and slices of them that become batches.

A part is a Parquet file or a row group: a file of our own tables, up to 1,024 images of a listing
(listing.py), or a row group of a user's Parquet file that contains images. Parts are plain data
that is sent to tasks; reading one holds little more than a slice in memory.
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
"""Footers read concurrently."""

BUFFER_BYTES = 8 * 2**20
"""Bytes of a column of a row group read at once."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of the input, numbered from 0 within the part."""

    uri: str
    rows: int
    row_group: int = -1
    """-1: the whole file."""

    start: int = 0
    """Number of the first row in its file."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What to read from a part."""

    names: tuple[str, ...] = ()
    """Columns of one of our tables; empty for all."""

    data: str = ""
    """In a user's Parquet file, the column of image bytes; rows become schema.IMAGES + `bytes`."""

    image_id: str = ""
    """In a user's Parquet file, the column of ids; if empty, ids are FILE#ROW."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The whole input of a job."""

    parts: list[Part]
    columns: Columns

    @property
    def rows(self) -> list[int]:
        """Number of rows of each part."""
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
    """Whether a file in a directory is one of its Parquet data files."""
    return file.endswith(".parquet") and not file.rpartition("/")[2].startswith("_")


def _rows(file: str) -> int:
    span = span_of(file)  # saves a request per file of a large table
    return int(footer(file)[0].num_rows) if span is None else span.rows


def footer(file: str) -> tuple[pq.FileMetaData, pa.Schema]:
    """Metadata and schema from the footer of a Parquet file.

    Raises:
        storage.StorageError: it is missing, or not a Parquet file.
    """

    def read() -> tuple[pq.FileMetaData, pa.Schema]:
        filesystem, path = storage.resolve(file)
        with pq.ParquetFile(path, filesystem=filesystem) as parquet:
            return parquet.metadata, parquet.schema_arrow

    try:
        return s3.with_retries(file, read)
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise storage.StorageError(f"{file}: not a Parquet file ({error})") from error


def slices(
    part: Part, columns: Columns, gaps: Sequence[Span], size: int
) -> Iterator[tuple[Span, pa.Table]]:
    """The rows of some gaps of a part, in order, `size` at a time, and fewer at the end of a gap.

    In a resumed job the gaps start where slices started, so its slices, and with them the batches
    that a model sees, are the same as in an uninterrupted run.
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
    """All rows of a part; after a transient failure, reading resumes where it failed."""
    names = [name for name in (columns.data, columns.image_id) if name] or list(columns.names)
    read, failing_since = 0, 0.0
    for wait in s3.waits():
        try:
            for table in _read(part, names, size, skip=read):
                yield _images(table, part, columns, read) if columns.data else table
                read, failing_since = read + len(table), 0.0
        except OSError as error:
            if not s3.is_transient(error):
                s3.check_credentials(part.uri, error)
                raise
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > s3.PATIENCE_SECONDS:
                raise s3.StorageOutage(
                    f"{part.uri}: storage does not respond ({error}); run the same command again "
                    "to resume when it works"
                ) from error
            time.sleep(wait)
        else:
            return


def _read(part: Part, names: list[str], size: int, *, skip: int) -> Iterator[pa.Table]:
    filesystem, path = storage.resolve(part.uri)
    groups = None if part.row_group < 0 else [part.row_group]
    # Our own files are small: read all of one in a single request. A user's row group may exceed
    # memory: read no more of it than is used.
    options = {"pre_buffer": False, "buffer_size": BUFFER_BYTES} if groups else {}
    with pq.ParquetFile(path, filesystem=filesystem, **options) as parquet:
        for batch in parquet.iter_batches(size, row_groups=groups, columns=names or None):
            if skip < len(batch):
                yield pa.Table.from_batches([batch.slice(skip)])
            skip = max(0, skip - len(batch))


def _images(table: pa.Table, part: Part, columns: Columns, at: int) -> pa.Table:
    """Rows of a user's Parquet file as an images table with bytes."""
    data = table[columns.data]
    if pa.types.is_struct(data.type):  # {bytes, path}, as in Hugging Face datasets
        data = pc.struct_field(data, "bytes")
    uris = [f"{part.uri}#{part.start + at + i}" for i in range(len(table))]
    ids = uris
    if columns.image_id:
        ids = pc.coalesce(table[columns.image_id].cast(pa.string()), pa.array(uris))
    return pa.table({"image_id": ids, "uri": uris, "split": [""] * len(table), "bytes": data})
