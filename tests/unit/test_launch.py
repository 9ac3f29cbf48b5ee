"""How a job ends: exit code, and what is said."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from jobs.launch import INTERRUPTED, launch
from vsa_ray.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    fails: bool = False
    """In its check."""

    out: str = ""

    def check(self) -> None:
        if self.fails:
            raise UserError("it fails")


@pytest.fixture(autouse=True)
def flags(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    flags = ["jobs/some.py"]
    monkeypatch.setattr("sys.argv", flags)
    return flags


def run(error: BaseException | None = None) -> None:
    def main(job: Job) -> None:
        if error is not None:
            raise error

    launch(main, Job, "A job.", needs_ray=False)


def ended(error: BaseException | None = None) -> object:
    with pytest.raises(SystemExit) as stop:
        run(error)
    return stop.value.code


def test_all_well(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert capsys.readouterr().err == ""


def test_a_mistake_is_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(UserError("no such thing")) == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    flags += ["--fails", "True"]
    assert ended() == 2
    assert capsys.readouterr().err == "error: it fails\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), OSError("no disk")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        run(error)
    assert raised.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0)])
def test_ctrl_c_says_how_to_go_on(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray Train's handler of the signal exits with 0."""
    assert ended(error) == INTERRUPTED
    assert capsys.readouterr().err == "stopped; start the same command again to go on\n"


def test_credentials_in_a_setting_are_refused_before_anything_logs_it(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags += ["--out", "s3://AKIA7:hunter2@bucket/runs"]
    assert ended(AssertionError("the job has begun")) == 2
    told = capsys.readouterr().err
    assert "credentials and endpoints do not belong in a URI" in told
    assert "hunter2" not in told
