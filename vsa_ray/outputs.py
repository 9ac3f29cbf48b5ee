"""Tables that many tasks write at once, and that a killed job finds again.

A table is a directory of Parquet files, each written in one atomic step. The name of a file is
made from the ids in it, so a task that runs twice writes the same file twice. A job that is killed
at any moment and started again leaves out the images that are in a file, makes the others, counts,
and commits: the same rows as an undisturbed run, none missing, none twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vsa_ray import storage
from vsa_ray.config import flatten

JOB = "_job.json"
"""What an output is being made from. Starts with `_`: not data, see storage.py."""


class OutputError(ValueError):
    """An output that a job must not write into, or that does not add up."""


def origin(job: str, inputs: Mapping[str, str], **settings: Any) -> dict[str, Any]:
    """What an output is made from: URIs, the version of what lies there, and settings.

    Args:
        inputs: URIs by name. A committed one is named with a digest of its own origin, so that an
            output knows when what it was made from has been made anew.
        settings: dataclasses by name, all of whose fields matter to the output.
    """
    made_from: dict[str, Any] = {"job": job}
    for name, uri in inputs.items():
        made_from[name] = storage.absolute(uri) if uri else ""
        success = storage.committed(uri) if uri else None
        if success is not None:
            digest = hashlib.blake2s(json.dumps(success, sort_keys=True).encode(), digest_size=8)
            made_from[f"{name}.version"] = digest.hexdigest()
    plain = {name: dataclasses.asdict(value) for name, value in settings.items()}
    made_from |= json.loads(json.dumps(dict(flatten(plain))))  # as it is when read back
    return made_from


@dataclass(frozen=True, slots=True)
class Written:
    """A finished table: its rows, and how many of them by status."""

    rows: int
    by_status: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A directory that one job makes. Plain data: travels to every task."""

    uri: str
    made_from: dict[str, Any] = field(hash=False)
    """Inputs and settings. A directory begun with others is refused."""

    def begin(self) -> None:
        """Claim the directory for this job; the same job started again goes on.

        Raises:
            OutputError: another job, or other settings, have begun there.
        """
        job = storage.join(self.uri, JOB)
        if not storage.exists(job):
            if any(map(_is_data, storage.list_files(self.uri))):
                raise OutputError(f"{self.uri} holds files of another origin; choose another --out")
            storage.write_json(job, self.made_from)
            return
        begun = storage.read_json(job)
        for name in sorted({*begun, *self.made_from}):
            before, now = begun.get(name), self.made_from.get(name)
            if before != now:
                raise OutputError(
                    f"{self.uri} was begun with another {name}: {before!r} before, {now!r} now; "
                    "choose another --out, or delete it to start over"
                )

    def committed(self) -> dict[str, Any] | None:
        """What `commit` said, if this job has finished before."""
        success = storage.committed(self.uri)
        return success if success and success["made_from"] == self.made_from else None

    def commit(self, **description: Any) -> None:
        storage.commit(self.uri, {"made_from": self.made_from, **description})


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOutput(Output):
    """A table that many tasks write at once."""

    id_column: str = "image_id"
    """Unique in the finished table."""

    def finished(self) -> Written | None:
        """The table, if this job has finished before."""
        success = self.committed()
        return Written(success["rows"], success["by_status"]) if success else None

    def files(self) -> list[str]:
        return [file for file in storage.list_files(self.uri) if file.endswith(".parquet")]

    def done(self) -> pa.Array:
        """Ids of the images whose rows are committed."""
        ids = [_read(file, ["image_id"])["image_id"].unique() for file in self.files()]
        return pa.concat_arrays(ids) if ids else pa.array([], pa.string())

    def rows(self) -> int:
        """Rows that are committed."""
        return sum(len(_read(file, ["image_id"])) for file in self.files())

    def write(self, table: pa.Table) -> Written:
        """Commit rows as one file. All rows of an image have to be in one call."""
        ids = "\n".join(table[self.id_column].to_pylist())
        name = f"part-{hashlib.blake2s(ids.encode(), digest_size=12).hexdigest()}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        storage.write_bytes(storage.join(self.uri, name), sink.getvalue().to_pybytes())
        return Written(len(table), _by_status(table))

    def finish(self, rows: int) -> Written:
        """Check that the table has `rows` rows, all different, and commit it.

        Raises:
            OutputError: rows are missing or there twice.
        """
        seen: Counter[str] = Counter()
        by_status: Counter[str] = Counter()
        for file in self.files():
            table = _read(file, [self.id_column, "status"])
            seen.update(table[self.id_column].to_pylist())
            by_status.update(_by_status(table))
        if seen.total() != rows or len(seen) != rows:
            raise OutputError(
                f"{self.uri}: expected {rows} rows, found {seen.total()} ({len(seen)} different); "
                "start the job again and it makes what is missing"
            )
        written = Written(rows, dict(by_status))
        self.commit(rows=rows, by_status=written.by_status)
        return written


def _is_data(file: str) -> bool:
    return not file.rpartition("/")[2].startswith("_")


def _by_status(table: pa.Table) -> dict[str, int]:
    if "status" not in table.schema.names:
        return {"ok": len(table)}
    return dict(Counter(table["status"].to_pylist()))


def _read(file: str, columns: list[str]) -> pa.Table:
    filesystem, path = storage.resolve(file)
    with pq.ParquetFile(path, filesystem=filesystem) as parquet:
        return parquet.read([name for name in columns if name in parquet.schema_arrow.names])
