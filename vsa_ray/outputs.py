"""Tables that many tasks write at once, and that a killed job finds again.

A table is a directory of files, each written in one atomic step and named after the rows of the
input that it was made from: `part-000012-00064-00128.parquet` are rows 64 to 127 of part 12. So
names alone tell what is done. A job that is killed at any moment and started again makes what no
name covers, checks that the names of every part cover it exactly once and that the files hold what
they say, and commits: the same rows as an undisturbed run, none missing, none twice. Workers that
outlive their job write nothing any more once it is started again: each start takes the turn.
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
from vsa_ray.table_files import Format, Written, encode, look

JOB = "_job.json"
"""What an output is being made from. Starts with `_`: not data, see storage.py."""

TURN = "_turn"
"""Which start of the job writes: the last one."""

RETRY = "_retry"
"""Says that failed rows are being taken out."""

SUMMARY = "_summary.json"
"""How a finished table came about."""

READERS = 32
"""Files that are looked into at once when a table is checked."""

HOW = {"made_from": False}
"""Metadata of a setting that says how to work, and changes nothing about what is made: see
`origin`. A job that was stopped may go on with another."""


class OutputError(UserError):
    """An output that a job must not write into, or that does not add up."""


def origin(job: str, inputs: Mapping[str, str], **settings: Any) -> dict[str, Any]:
    """What an output is made from: URIs, the version of what lies there, and settings.

    Args:
        inputs: URIs by name. A committed one is named with a digest of its commit, so that an
            output knows when what it was made from has been made anew.
        settings: dataclasses by name. All of their fields matter to the output, but for those
            with `made_from` False in their metadata, however deep.
    """
    made_from: dict[str, Any] = {"job": job}
    for name, uri in inputs.items():
        made_from[name] = storage.absolute(uri) if uri else ""
        success = storage.committed(uri) if uri and storage.is_directory(uri) else None
        if success is not None:
            digest = hashlib.blake2s(json.dumps(success, sort_keys=True).encode(), digest_size=8)
            made_from[f"{name}.version"] = digest.hexdigest()
    plain = {name: _what(value) for name, value in settings.items()}
    made_from |= json.loads(json.dumps(dict(flatten(plain))))  # as it is when read back
    return made_from


def _what(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that matter to an output."""
    plain = {}
    for one in dataclasses.fields(settings):
        if one.metadata.get("made_from", True):
            value = getattr(settings, one.name)
            plain[one.name] = _what(value) if dataclasses.is_dataclass(value) else value
    return plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A directory that one job makes. Plain data: travels to every task."""

    uri: str
    made_from: dict[str, Any] = field(hash=False)
    """Inputs and settings. A directory begun with others is refused."""

    turn: str = ""
    """See `take_turn`; without one, anybody writes."""

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

    def take_turn(self) -> Self:
        """The output for this start of the job: what starts before it left running is refused."""
        turn = uuid.uuid4().hex
        storage.write_bytes(storage.join(self.uri, TURN), turn.encode())
        return replace(self, turn=turn)

    def check_turn(self) -> None:
        """Raise OutputError where it is another start's turn."""
        try:
            turn = storage.read_bytes(storage.join(self.uri, TURN)).decode() if self.turn else ""
        except FileNotFoundError:
            turn = "nobody's: deleted"
        if turn != self.turn:
            raise OutputError(
                f"{self.uri}: the same command was started once more, or its files were deleted, "
                "while it ran; this one has stopped"
            )

    def committed(self) -> dict[str, Any] | None:
        """What `commit` said, if this job has finished before."""
        success = storage.committed(self.uri)
        return success if success and success.get("made_from") == self.made_from else None

    def commit(self, **description: Any) -> None:
        """Say that the directory is complete, and what is in it.

        Each commit has a number of its own: what is made anew is another input to what follows.
        """
        own = {"made_from": self.made_from, "number": uuid.uuid4().hex}
        storage.commit(self.uri, {**own, **description})


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOutput(Output):
    """A table that many tasks write at once."""

    format: Format = "parquet"
    max_error_rate: float = 1.0
    """Not committed where a larger share of the rows has failed."""

    def finished(self) -> Written | None:
        """The table, if this job has finished before."""
        success = self.committed()
        return Written(success["rows"], success["by_status"]) if success else None

    def reopen(self) -> int:
        """Take the failed rows out of a finished table, so that the job makes them again; their
        files' other rows too -> how many have failed. Nothing where it has not finished.
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
            # In this order: killed in between, it is unfinished, and the same call goes on.
            storage.write_bytes(retry, b"")
            storage.delete(storage.join(self.uri, storage.SUCCESS))
            for file in (file for file, rows in failed.items() if rows):
                storage.delete(file)
        storage.delete(retry)
        return total

    def write(self, span: Span, table: pa.Table) -> Written:
        """Commit what was made from some rows of the input, as one file.

        Raises OutputError where it is another start's turn.
        """
        self.check_turn()
        name = f"{span.name}.{self.format}"
        data, written = encode(table, self.format)
        storage.write_bytes(storage.join(self.uri, name), data)
        return written

    def done(self) -> dict[Span, str]:
        """The files that are there, by what they were made from, in order; no two overlap.

        Where two overlap, one is deleted: when a job was killed, its workers may live for a moment
        longer, and be about to write a file when the next start looks.

        Raises:
            OutputError: there are files that this job cannot have written.
        """
        files: dict[Span, str] = {}
        for file in filter(_is_data, storage.list_files(self.uri)):
            span = span_of(file)
            if span is None or not file.endswith(f".{self.format}"):
                raise OutputError(
                    f"{file} is not of this job, or of another version of it; choose another "
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
        """Check that every row of the input was made, once, and commit the table.

        Args:
            parts: rows of each part of the input.
            rows: of the finished table, where an input row does not make exactly one.
            summary: what else to say in the summary file.

        Raises:
            OutputError: rows are missing, files damaged, too many failed, or it is another's turn.
        """
        self.check_turn()
        done = self.done()
        missing = sum(gap.rows for gaps in pending(done, parts).values() for gap in gaps)
        if missing or sum(parts) != sum(span.rows for span in done):
            raise OutputError(
                f"{self.uri}: {missing} of {sum(parts)} rows of the input are not done; start the "
                "job again and it makes what is missing"
            )
        whole = self._check(done, rows)
        self.check_errors(whole)
        for file in storage.list_files(self.uri):
            if file.endswith(storage.PARTIAL):  # of a worker that was killed
                storage.delete(file)
        description = {"rows": whole.rows, "by_status": whole.by_status}
        storage.write_json(storage.join(self.uri, SUMMARY), {**description, **(summary or {})})
        self.commit(**description)
        return whole

    def check_errors(self, written: Written) -> None:
        """Raise OutputError, with the reasons, where too large a share of the rows has failed."""
        if not self.too_many_failed(written):
            return
        failed = _failed(written)
        reasons = ", ".join(f"{n} {kind}" for kind, n in failed.most_common())
        raise OutputError(
            f"{self.uri}: {failed.total()} of {written.rows} images failed ({reasons}), over "
            f"--max-error-rate {self.max_error_rate:g}; the column `error` of its files says why. "
            "Put it right and delete the output, or go on with a higher --max-error-rate"
        )

    def too_many_failed(self, written: Written) -> bool:
        return _failed(written).total() > self.max_error_rate * written.rows

    def count(self, files: list[str]) -> Written:
        """What is in some of its files."""
        return sum(self._look_into(files), start=Written(0, {}))

    def _check(self, done: Mapping[Span, str], rows: int | None) -> Written:
        found = self._look_into(list(done.values()))
        by_status: Counter[str] = Counter()
        for (span, file), written in zip(done.items(), found, strict=True):
            if rows is None and written.rows != span.rows:
                raise OutputError(
                    f"{file} holds {written.rows} rows instead of {span.rows}; delete it and start "
                    "the job again"
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
            return list(pool.map(partial(look, format=self.format), files))


def _failed(written: Written) -> Counter[str]:
    return Counter({kind: n for kind, n in written.by_status.items() if kind != "ok"})


def _is_data(file: str) -> bool:
    return not file.rpartition("/")[2].startswith("_")
