"""How a job ends: exit code, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
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
    assert capsys.readouterr().err == "stopped; run the same command again to resume\n"


def test_other_exits_keep_their_code() -> None:
    assert ended(SystemExit(3)) == 3


def test_a_training_is_told_to_go_on_by_its_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Training:
        resume: bool = False

        def check(self) -> None:
            raise KeyboardInterrupt

    for flags, told in (([], " with --resume"), (["--resume", "True"], "")):
        monkeypatch.setattr("sys.argv", ["jobs/some.py", *flags])
        with pytest.raises(SystemExit):
            launch(lambda _: None, Training, "A training.", needs_ray=False)
        assert f"run the same command again{told} to resume" in capsys.readouterr().err


def test_what_has_to_be_given_may_not_be_empty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Reading:
        in_place: str
        phrases: str = ""

        def check(self) -> None: ...

    def ended(*flags: str) -> object:
        monkeypatch.setattr("sys.argv", ["jobs/some.py", *flags])
        with pytest.raises(SystemExit) as stop:
            launch(lambda _: sys.exit(0), Reading, "A job.", needs_ray=False)
        return stop.value.code

    assert ended("--in-place", "") == 2
    assert capsys.readouterr().err == "error: --in-place is empty; give a value\n"
    assert ended("--in-place", "here", "--phrases", "") == INTERRUPTED  # it has run


@pytest.mark.parametrize("flags", [["--help"], ["--print-config"]])
def test_who_reads_the_help_may_leave_early(flags: list[str]) -> None:
    command = [sys.executable, "-m", "jobs.generate_scenes", "--out", "scenes", *flags]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert ended.stderr == ""


def test_credentials_in_a_setting_are_refused_before_anything_logs_it(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags += ["--out", "s3://AKIA7:hunter2@bucket/runs"]
    assert ended(AssertionError("the job has begun")) == 2
    told = capsys.readouterr().err
    assert "credentials and endpoints do not belong in a URI" in told
    assert "hunter2" not in told
