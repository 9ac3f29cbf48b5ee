"""Tables that many tasks write concurrently, and that a killed job can resume.

A table is a directory of files, each written atomically and named after the input rows it was made
from: `part-000012-00064-00128.parquet` has rows 64 to 127 of part 12. So names alone tell what is
done. A job that is killed at any moment and restarted processes the rows that no name covers,
checks that names cover every part exactly once and that the files hold what they should, and
commits: the same rows as an uninterrupted run, none missing, none duplicated. Workers that outlive
their job cannot write any more once it is restarted: each start takes the turn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import pyarrow as pa

from vsa_ray import storage
from vsa_ray.config import flatten
from vsa_ray.errors import UserError
from vsa_ray.spans import Span, disjoint, pending, span_of
from vsa_ray.table_files import Format, Written, encode, inspect

JOB = "_job.json"
"""The inputs and settings of an output. Starts with `_`, so it is not data; see storage.py."""

TURN = "_turn"
"""Which start of the job may write: the last one."""

RETRY = "_retry"
"""Marks that failed rows are being removed."""

SUMMARY = "_summary.json"
"""How a finished table was made."""

READERS = 32
"""Files read concurrently when a table is checked."""

EXECUTION = {"made_from": False}
"""Field metadata of settings that do not affect the result; see `origin`. A job may be resumed with
other values of them."""


class OutputError(UserError):
    """An output that a job must not write into, or that does not add up."""


def origin(job: str, inputs: Mapping[str, str], **settings: Any) -> dict[str, Any]:
    """What an output is made from: URIs and versions of its inputs, and settings.

    Args:
        inputs: URIs by name. A committed input is recorded with a digest of its commit, which shows
            when it has been made again.
        settings: dataclasses by name. All their fields are recorded, at any depth, except those
            with `made_from` False in their metadata.
    """
    made_from: dict[str, Any] = {"job": job}
    for name, uri in inputs.items():
        made_from[name] = storage.absolute(uri) if uri else ""
        success = storage.committed(uri) if uri and storage.is_directory(uri) else None
        if success is not None:
            digest = hashlib.blake2s(json.dumps(success, sort_keys=True).encode(), digest_size=8)
            made_from[f"{name}.version"] = digest.hexdigest()
    plain = {name: _what(value) for name, value in settings.items()}
    made_from |= json.loads(json.dumps(dict(flatten(plain))))  # equal to what is read back
    return made_from


def _what(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that affect an output."""
    plain = {}
    for one in dataclasses.fields(settings):
        if one.metadata.get("made_from", True):
            value = getattr(settings, one.name)
            plain[one.name] = _what(value) if dataclasses.is_dataclass(value) else value
    return plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A directory that one job writes. Plain data, sent to every task."""

    uri: str
    made_from: dict[str, Any] = field(hash=False)
    """Inputs and settings. A directory begun with others is refused."""

    turn: str = ""
    """See `take_turn`; if empty, anyone may write."""

    def begin(self) -> None:
        """Claim the directory for this job, or resume it.

        Raises:
            OutputError: it was begun by another job, or with other inputs or settings.
        """
        job = storage.join(self.uri, JOB)
        if not storage.exists(job):
            if any(map(_is_data, storage.list_files(self.uri))):
                raise OutputError(f"{self.uri} holds files of another origin; use another --out")
            storage.write_json(job, self.made_from)
            return
        begun = storage.read_json(job)
        for name in sorted({*begun, *self.made_from}):
            before, now = begun.get(name), self.made_from.get(name)
            if before != now:
                raise OutputError(
                    f"{self.uri} was begun with another {name}: {before!r} before, {now!r} now; "
                    "use another --out, or delete this one to start over"
                )

    def take_turn(self) -> Self:
        """The output for this start of the job; workers left from earlier starts are refused."""
        turn = uuid.uuid4().hex
        storage.write_bytes(storage.join(self.uri, TURN), turn.encode())
        return replace(self, turn=turn)

    def check_turn(self) -> None:
        """Raise OutputError if it is another start's turn."""
        try:
            turn = storage.read_bytes(storage.join(self.uri, TURN)).decode() if self.turn else ""
        except FileNotFoundError:
            turn = "nobody's: deleted"
        if turn != self.turn:
            raise OutputError(
                f"{self.uri}: the same command was started again, or its files were deleted, while "
                "this job was running; it has stopped"
            )

    def committed(self) -> dict[str, Any] | None:
        """What `commit` wrote, if this job has already finished."""
        success = storage.committed(self.uri)
        return success if success and success.get("made_from") == self.made_from else None

    def commit(self, **description: Any) -> None:
        """Mark the directory as complete, and describe its content.

        Each commit has a unique number, so an output that is made again counts as a new input.
        """
        own = {"made_from": self.made_from, "number": uuid.uuid4().hex}
        storage.commit(self.uri, {**own, **description})


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOutput(Output):
    """A table that many tasks write concurrently."""

    format: Format = "parquet"
    max_error_rate: float = 1.0
    """The table is not committed if a larger share of its rows has failed."""

    def finished(self) -> Written | None:
        """What the table holds, if this job has already finished."""
        success = self.committed()
        return Written(success["rows"], success["by_status"]) if success else None

    def reopen(self) -> int:
        """Remove the files with failed rows from a finished table, so that the job retries them ->
        number of failed rows. Does nothing if the table is not finished.
        """
        retry = storage.join(self.uri, RETRY)
        if self.committed() is None and not storage.exists(retry):
            return 0
        files = list(self.done().values())
        failed = {
            file: written.rows - written.by_status.get("ok", 0)
            for file, written in zip(files, self._look_into(files), strict=True)
        }
        if total := sum(failed.values()):
            # In this order: if killed in between, the table is unfinished, and a new call resumes.
            storage.write_bytes(retry, b"")
            storage.delete(storage.join(self.uri, storage.SUCCESS))
            for file in (file for file, rows in failed.items() if rows):
                storage.delete(file)
        storage.delete(retry)
        return total

    def write(self, span: Span, table: pa.Table) -> Written:
        """Write what was made from some rows of the input, as one file.

        Raises OutputError if it is another start's turn.
        """
        self.check_turn()
        name = f"{span.name}.{self.format}"
        data, written = encode(table, self.format)
        storage.write_bytes(storage.join(self.uri, name), data)
        return written

    def done(self) -> dict[Span, str]:
        """The existing files by the rows they were made from, in order, without overlaps.

        Of overlapping files some are deleted: after a job was killed, its workers may live a moment
        longer and write a file after the next start has listed them.

        Raises:
            OutputError: there are files that this job cannot have written.
        """
        files: dict[Span, str] = {}
        for file in filter(_is_data, storage.list_files(self.uri)):
            span = span_of(file)
            if span is None or not file.endswith(f".{self.format}"):
                raise OutputError(
                    f"{file} was not written by this job, or by another version of it; use another "
                    "--out, or delete this one to start over"
                )
            files[span] = file
        kept = disjoint(files)
        for span in files.keys() - kept:
            storage.delete(files[span])
        return {span: files[span] for span in kept}

    def finish(
        self,
        parts: Sequence[int],
        *,
        rows: int | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> Written:
        """Check that every row of the input was processed exactly once, and commit the table.

        Args:
            parts: rows of each part of the input.
            rows: rows of the finished table, if an input row does not make exactly one.
            summary: additional content of the summary file.

        Raises:
            OutputError: rows are missing, files damaged, too many failed, or it is another's turn.
        """
        self.check_turn()
        done = self.done()
        missing = sum(gap.rows for gaps in pending(done, parts).values() for gap in gaps)
        if missing or sum(parts) != sum(span.rows for span in done):
            raise OutputError(
                f"{self.uri}: {missing} of {sum(parts)} rows of the input are not done; run the "
                "same command again to make the missing ones"
            )
        whole = self._check(done, rows)
        self.check_errors(whole)
        for file in storage.list_files(self.uri):
            if file.endswith(storage.PARTIAL):  # left by a worker that was killed
                storage.delete(file)
        description = {"rows": whole.rows, "by_status": whole.by_status}
        storage.write_json(storage.join(self.uri, SUMMARY), {**description, **(summary or {})})
        self.commit(**description)
        return whole

    def check_errors(self, written: Written) -> None:
        """Raise OutputError, with the reasons, if too large a share of the rows has failed."""
        if not self.too_many_failed(written):
            return
        failed = _failed(written)
        reasons = ", ".join(f"{n} {kind}" for kind, n in failed.most_common())
        raise OutputError(
            f"{self.uri}: {failed.total()} of {written.rows} images failed ({reasons}), more than "
            f"--max-error-rate {self.max_error_rate:g}; the column `error` of its files says why. "
            "Fix the cause and delete the output, or resume with a higher --max-error-rate"
        )

    def too_many_failed(self, written: Written) -> bool:
        return _failed(written).total() > self.max_error_rate * written.rows

    def count(self, files: list[str]) -> Written:
        """What some of its files hold."""
        return sum(self._look_into(files), start=Written(0, {}))

    def _check(self, done: Mapping[Span, str], rows: int | None) -> Written:
        found = self._look_into(list(done.values()))
        by_status: Counter[str] = Counter()
        for (span, file), written in zip(done.items(), found, strict=True):
            if rows is None and written.rows != span.rows:
                raise OutputError(
                    f"{file} holds {written.rows} rows instead of {span.rows}; delete it and run "
                    "the same command again"
                )
            by_status.update(written.by_status)
        whole = Written(sum(written.rows for written in found), dict(by_status))
        if rows is not None and whole.rows != rows:
            raise OutputError(
                f"{self.uri}: expected {rows} rows, found {whole.rows}; delete it and start over"
            )
        return whole

    def _look_into(self, files: list[str]) -> list[Written]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(partial(inspect, format=self.format), files))


def _failed(written: Written) -> Counter[str]:
    return Counter({kind: n for kind, n in written.by_status.items() if kind != "ok"})


def _is_data(file: str) -> bool:
    return not file.rpartition("/")[2].startswith("_")
