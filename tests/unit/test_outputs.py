"""Tables that are written in parts: what a second start finds, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vsa_ray import schema, storage
from vsa_ray.outputs import SUMMARY, OutputError, TableOutput, origin
from vsa_ray.spans import Span
from vsa_ray.table_files import Written


def output(tmp_path: Path, **made_from: Any) -> TableOutput:
    return TableOutput(uri=str(tmp_path / "table"), made_from={"job": "test", **made_from})


def rows(*ids: str, status: str = "ok") -> pa.Table:
    return pa.table({"image_id": list(ids), "status": [status] * len(ids)})


FORMATS = pytest.mark.parametrize("format", ["parquet", "jsonl"])


@FORMATS
def test_parts_become_a_table(tmp_path: Path, format: Any) -> None:
    out = replace(output(tmp_path), format=format)
    out.begin()
    assert out.write(Span(0, 0, 2), rows("a", "b")) == Written(2, {"ok": 2})
    out.write(Span(1, 0, 1), rows("c", status="missing"))
    assert out.finished() is None
    assert list(out.done()) == [Span(0, 0, 2), Span(1, 0, 1)]
    assert out.finish([2, 1], summary={"seconds": 3}) == Written(3, {"ok": 2, "missing": 1})
    assert out.finished() == Written(3, {"ok": 2, "missing": 1})
    assert storage.read_json(storage.join(out.uri, SUMMARY)) == {
        "rows": 3,
        "by_status": {"ok": 2, "missing": 1},
        "seconds": 3,
    }


def test_a_table_reads_as_it_was_written(tmp_path: Path, regions: pa.Table) -> None:
    out = output(tmp_path)
    out.write(Span(0, 0, 2), regions.slice(0, 2))
    out.write(Span(0, 2, 5), regions.slice(2))
    assert storage.read_table(out.uri, schema.REGIONS) == regions


def test_json_lines(tmp_path: Path) -> None:
    out = replace(output(tmp_path), format="jsonl")
    out.write(Span(0, 0, 2), rows("a", "\u2028\n\u00e9"))
    (file,) = (tmp_path / "table").glob("*.jsonl")
    assert [json.loads(line)["image_id"] for line in file.open(newline="\n")] == [
        "a",
        "\u2028\n\u00e9",
    ]
    assert out.finish([2]).rows == 2


def test_writing_a_part_twice_leaves_it_once(tmp_path: Path) -> None:
    out = output(tmp_path)
    out.begin()
    out.write(Span(0, 0, 2), rows("a", "b"))
    out.write(Span(0, 0, 2), rows("a", "b"))
    assert out.finish([2]).rows == 2


def test_only_the_last_start_of_a_job_writes(tmp_path: Path) -> None:
    """A worker that outlives its job must not write a file after the table was checked."""
    first = output(tmp_path).take_turn()
    first.write(Span(0, 0, 2), rows("a", "b"))
    second = output(tmp_path).take_turn()
    with pytest.raises(OutputError, match="was started again"):
        first.write(Span(0, 2, 4), rows("c", "d"))
    with pytest.raises(OutputError, match="was started again"):
        first.finish([2])
    second.write(Span(0, 2, 3), rows("c"))
    half = Path(second.uri, f"_part-000000-00003-00004.parquet.0{storage.PARTIAL}")
    half.write_bytes(b"killed")
    assert second.finish([3]).rows == 3
    assert not half.exists()
    shutil.rmtree(second.uri)
    with pytest.raises(OutputError, match="or its files were deleted"):
        second.write(Span(0, 0, 1), rows("a"))
    assert not Path(second.uri).exists()


def test_a_file_that_a_dying_job_left_over_others_goes(tmp_path: Path) -> None:
    out = output(tmp_path)
    out.write(Span(0, 0, 2), rows("a", "b"))
    out.write(Span(0, 2, 4), rows("c", "d"))
    out.write(Span(0, 1, 3), rows("b", "c"))
    assert list(out.done()) == [Span(0, 0, 2), Span(0, 2, 4)]
    assert out.finish([4]).rows == 4
    assert len(list((tmp_path / "table").glob("part-*"))) == 2


@pytest.mark.parametrize("name", ["part-0123456789abcdef01234567.parquet", "part-00000.parquet"])
def test_files_of_another_version_are_refused(tmp_path: Path, name: str) -> None:
    out = output(tmp_path)
    out.begin()
    storage.write_bytes(storage.join(out.uri, name), b"")
    with pytest.raises(OutputError, match="not written by this job, or by another version"):
        out.done()


@pytest.mark.parametrize(("rate", "fails"), [(0.5, False), (0.49, True), (1.0, False)])
def test_too_many_errors(tmp_path: Path, rate: float, fails: bool) -> None:
    out = replace(output(tmp_path), max_error_rate=rate)
    out.write(Span(0, 0, 2), rows("a", "b"))
    out.write(Span(0, 2, 3), rows("c", status="missing"))
    out.write(Span(0, 3, 4), rows("d", status="empty"))
    if not fails:
        assert out.finish([4]).rows == 4
        return
    message = r"2 of 4 images failed \(1 missing, 1 empty\), more than --max-error-rate 0.49"
    with pytest.raises(OutputError, match=message):
        out.finish([4])
    assert storage.committed(out.uri) is None


def test_the_same_job_goes_on(tmp_path: Path) -> None:
    output(tmp_path, beta=1.0).begin()
    output(tmp_path, beta=1.0).begin()


def test_another_job_is_refused(tmp_path: Path) -> None:
    output(tmp_path, beta=1.0).begin()
    with pytest.raises(OutputError, match=r"begun with another beta: 1.0 before, 2.0 now"):
        output(tmp_path, beta=2.0).begin()


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    storage.write_table(str(tmp_path / "table"), rows("a"))
    with pytest.raises(OutputError, match="files of another origin"):
        output(tmp_path).begin()


def test_a_finished_table_of_another_job_is_not_taken_for_ours(tmp_path: Path) -> None:
    out = output(tmp_path, beta=1.0)
    out.begin()
    out.write(Span(0, 0, 1), rows("a"))
    out.finish([1])
    assert output(tmp_path, beta=2.0).finished() is None


def test_a_directory_that_spark_has_finished_is_refused(tmp_path: Path) -> None:
    """On S3 it writes JSON of its own into _SUCCESS."""
    out = output(tmp_path)
    storage.write_table(out.uri, rows("a"))
    storage.commit(out.uri, {"name": "org.apache.hadoop.fs.s3a.commit.files.SuccessData/1"})
    assert out.finished() is None
    with pytest.raises(OutputError, match="files of another origin"):
        out.begin()


@pytest.mark.parametrize(
    ("spans", "table", "message"),
    [
        ([Span(0, 0, 1)], rows("a"), "1 of 2 rows of the input are not done; run the same command"),
        ([Span(1, 0, 2)], rows("a", "b"), "2 of 2 rows of the input are not done"),
        ([Span(0, 0, 2), Span(0, 2, 3)], None, "0 of 2 rows"),
        ([Span(0, 0, 2)], rows("a"), r"00002.parquet holds 1 rows instead of 2; delete it"),
    ],
)
def test_rows_that_do_not_add_up_are_not_committed(
    tmp_path: Path, spans: list[Span], table: pa.Table | None, message: str
) -> None:
    out = output(tmp_path)
    for span in spans:
        out.write(span, rows(*"abc"[: span.rows]) if table is None else table)
    with pytest.raises(OutputError, match=message):
        out.finish([2])
    assert storage.committed(out.uri) is None


def test_rows_of_another_number_than_the_input(tmp_path: Path) -> None:
    out = output(tmp_path)
    out.write(Span(0, 0, 2), rows("a", "b", "c"))
    with pytest.raises(OutputError, match="expected 4 rows, found 3"):
        out.finish([2], rows=4)
    assert out.finish([2], rows=3).rows == 3


@dataclass(frozen=True)
class Settings:
    beta: float
    sizes: tuple[int, ...]
    tries: int = field(default=3, metadata={"made_from": False})


@dataclass(frozen=True)
class AllSettings:
    snippets: Settings


def test_origin_names_inputs_settings_and_versions(tmp_path: Path) -> None:
    source = TableOutput(uri=str(tmp_path / "source"), made_from={"job": "before"})
    source.begin()
    source.finish([])
    settings = Settings(0.5, (1, 2))
    first = origin("test", {"source": source.uri, "other": ""}, snippets=settings)
    assert first["source"] == source.uri
    assert first["snippets.beta"] == 0.5
    assert first["snippets.sizes"] == [1, 2]
    patient = replace(settings, tries=9)
    assert first == origin("test", {"source": source.uri, "other": ""}, snippets=patient)
    assert "snippets.tries" not in first
    nested = origin("test", {}, all=AllSettings(settings))
    assert nested == {"job": "test", "all.snippets.beta": 0.5, "all.snippets.sizes": [1, 2]}
    storage.commit(source.uri, {"made_from": {"job": "another"}})
    second = origin("test", {"source": source.uri, "other": ""}, snippets=settings)
    assert second["source.version"] != first["source.version"]


@FORMATS
def test_failed_rows_are_made_again(tmp_path: Path, format: Any) -> None:
    out = replace(output(tmp_path), format=format)
    out.begin()
    assert out.reopen() == 0
    out.write(Span(0, 0, 2), rows("a", "b"))
    out.write(Span(0, 2, 3), rows("c", status="access_denied"))
    assert out.reopen() == 0  # it has not finished: what is missing is made first
    out.finish([3])
    assert out.reopen() == 1
    assert out.finished() is None
    assert list(out.done()) == [Span(0, 0, 2)]
    out.write(Span(0, 2, 3), rows("c"))
    assert out.finish([3]) == Written(3, {"ok": 3})
    assert out.reopen() == 0
    assert out.finished() == Written(3, {"ok": 3})


def test_taking_out_failed_rows_survives_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = output(tmp_path)
    out.begin()
    out.write(Span(0, 0, 1), rows("a", status="access_denied"))
    out.write(Span(0, 1, 2), rows("b", status="access_denied"))
    out.write(Span(0, 2, 3), rows("c"))
    out.finish([3])
    delete, deleted = storage.delete, list[str]()

    def killed(uri: str) -> None:
        if len(deleted) == 2:
            raise KeyboardInterrupt
        deleted.append(uri)
        delete(uri)

    monkeypatch.setattr(storage, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        out.reopen()
    monkeypatch.setattr(storage, "delete", delete)
    assert out.finished() is None
    assert out.reopen() == 1  # that of the file that was not deleted yet
    assert list(out.done()) == [Span(0, 2, 3)]
    assert out.reopen() == 0


def test_an_output_made_anew_is_another_one(tmp_path: Path) -> None:
    """With as many rows, from other pictures at the same place."""
    source = output(tmp_path)
    origins = []
    for image_id in ("a", "b"):
        source.begin()
        source.write(Span(0, 0, 1), rows(image_id))
        source.finish([1])
        origins.append(origin("test", {"source": source.uri}))
        assert origins[-1] == origin("test", {"source": source.uri})
        storage.delete(source.uri)
    assert origins[0] != origins[1]


def test_counts_add_up(tmp_path: Path) -> None:
    out = output(tmp_path)
    out.write(Span(0, 0, 2), rows("a", "b"))
    out.write(Span(0, 2, 3), rows("c", status="missing"))
    assert out.count(list(out.done().values())) == Written(3, {"ok": 2, "missing": 1})
    assert out.count([]) == Written(0, {})
