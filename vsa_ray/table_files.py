"""The files of a table: encoding, and what a file holds."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vsa_ray import s3, storage

Format = Literal["parquet", "jsonl"]


@dataclass(frozen=True, slots=True)
class Written:
    """A finished table, or a part of one: its rows, and how many of them by status."""

    rows: int
    by_status: dict[str, int]

    def __add__(self, other: Written) -> Written:
        both = Counter(self.by_status) + Counter(other.by_status)
        return Written(self.rows + other.rows, dict(both))


def encode(table: pa.Table, format: Format) -> tuple[bytes, Written]:
    """The bytes of a file, and what it holds."""
    written = Written(len(table), _by_status(table))
    return (_as_parquet(table, written) if format == "parquet" else _as_lines(table)), written


def inspect(file: str, format: Format) -> Written:
    """What a file holds: for Parquet only the footer is read, for JSON lines the whole file."""
    if format == "jsonl":
        lines = storage.read_bytes(file).splitlines()
        return Written(len(lines), dict(Counter(json.loads(line)["status"] for line in lines)))
    metadata = s3.with_retries(file, lambda: _footer(file))
    counts = (metadata.metadata or {}).get(b"by_status", b"{}")
    return Written(metadata.num_rows, json.loads(counts))


def _by_status(table: pa.Table) -> dict[str, int]:
    if "status" not in table.schema.names:
        return {"ok": len(table)}
    return dict(Counter(table["status"].to_pylist()))


def _as_parquet(table: pa.Table, written: Written) -> bytes:
    sink = pa.BufferOutputStream()
    counts = {b"by_status": json.dumps(written.by_status).encode()}
    table = table.replace_schema_metadata(counts)
    # Numbers hardly repeat, so dictionaries are useless, and features are read twice as fast
    # without; zstd finds what does repeat.
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _as_lines(table: pa.Table) -> bytes:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    return "".join(lines).encode()


def _footer(file: str) -> Any:
    filesystem, path = storage.resolve(file)
    with pq.ParquetFile(path, filesystem=filesystem) as parquet:
        return parquet.metadata
