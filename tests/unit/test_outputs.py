"""Tables that are written in parts: what a second start finds, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vsa_ray import storage
from vsa_ray.outputs import OutputError, TableOutput, Written, origin


def output(tmp_path: Path, **made_from: Any) -> TableOutput:
    return TableOutput(uri=str(tmp_path / "table"), made_from={"job": "test", **made_from})


def rows(*ids: str, status: str = "ok") -> pa.Table:
    return pa.table({"image_id": list(ids), "status": [status] * len(ids)})


def test_parts_become_a_table(tmp_path: Path) -> None:
    out = output(tmp_path)
    out.begin()
    assert out.write(rows("a", "b")) == Written(2, {"ok": 2})
    out.write(rows("c", status="missing"))
    assert out.finished() is None
    assert sorted(out.done().to_pylist()) == ["a", "b", "c"]
    assert out.finish(3) == Written(3, {"ok": 2, "missing": 1})
    assert out.finished() == Written(3, {"ok": 2, "missing": 1})


def test_writing_a_part_twice_leaves_it_once(tmp_path: Path) -> None:
    out = output(tmp_path)
    out.begin()
    out.write(rows("a", "b"))
    out.write(rows("a", "b"))
    assert out.rows() == 2
    assert len(out.files()) == 1


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
    out.write(rows("a"))
    out.finish(1)
    assert output(tmp_path, beta=2.0).finished() is None


@pytest.mark.parametrize("parts", [[["a"]], [["a", "b"], ["b"]], [["a", "b", "c"]]])
def test_rows_that_do_not_add_up_are_not_committed(tmp_path: Path, parts: list[list[str]]) -> None:
    out = output(tmp_path)
    out.begin()
    for ids in parts:
        out.write(rows(*ids))
    with pytest.raises(OutputError, match="expected 2 rows"):
        out.finish(2)
    assert storage.committed(out.uri) is None


@dataclass(frozen=True)
class Settings:
    beta: float
    sizes: tuple[int, ...]


def test_origin_names_inputs_settings_and_versions(tmp_path: Path) -> None:
    source = TableOutput(uri=str(tmp_path / "source"), made_from={"job": "before"})
    source.begin()
    source.finish(0)
    settings = Settings(0.5, (1, 2))
    first = origin("test", {"source": source.uri, "other": ""}, snippets=settings)
    assert first["source"] == source.uri
    assert first["snippets.beta"] == 0.5
    assert first["snippets.sizes"] == [1, 2]
    assert first == origin("test", {"source": source.uri, "other": ""}, snippets=settings)
    storage.commit(source.uri, {"made_from": {"job": "another"}})
    second = origin("test", {"source": source.uri, "other": ""}, snippets=settings)
    assert second["source.version"] != first["source.version"]
