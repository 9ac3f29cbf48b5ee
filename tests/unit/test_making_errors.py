"""How many rows may fail, of a job that was stopped in between; the rest is in tests/cluster."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from vsa_ray import storage
from vsa_ray.datasets.making import _Errors
from vsa_ray.outputs import OutputError, TableOutput
from vsa_ray.spans import Span
from vsa_ray.table_files import Written


def rows(count: int, status: str) -> pa.Table:
    return pa.table({"image_id": [str(i) for i in range(count)], "status": [status] * count})


def test_rows_of_earlier_starts_count(tmp_path: Path) -> None:
    """As in a job that was never stopped: what fails may all be at the end."""
    output = TableOutput(uri=str(tmp_path), made_from={}, max_error_rate=0.25)
    output.write(Span(0, 0, 60), rows(60, "ok"))
    output.write(Span(0, 60, 70), rows(10, "missing"))
    errors = _Errors(output, list(output.done().values()))
    errors.check(Written(10, {"missing": 10}))  # 20 of 80
    with pytest.raises(OutputError, match=r"30 of 90 images failed \(20 empty, 10 missing\)"):
        errors.check(Written(20, {"empty": 20}))


def test_files_are_opened_once_and_not_without_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = TableOutput(uri=str(tmp_path), made_from={}, max_error_rate=0.5)
    output.write(Span(0, 0, 60), rows(60, "ok"))
    (file,) = output.done().values()
    errors = _Errors(output, [file])
    kept = storage.read_bytes(file)
    storage.delete(file)
    errors.check(Written(60, {"ok": 30, "missing": 30}))
    storage.write_bytes(file, kept)
    errors.check(Written(60, {"ok": 20, "missing": 40}))
    storage.delete(file)
    errors.check(Written(60, {"ok": 10, "missing": 50}))
