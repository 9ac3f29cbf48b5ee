"""Settings from files and flags, and what a user is told about wrong ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import yaml

from vsa_ray.config import ConfigError, Recipe, flatten, names, parse, to_yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    kind: Literal["a", "b"] = "a"
    count: int = 3

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Part.count must be >= 1, got {self.count}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    out: str
    part: Part = field(default_factory=Part)
    fast: bool = False
    sizes: tuple[int, ...] = ()
    old_name: int = 0


def read(*flags: str) -> Job:
    return parse(Job, description="A job.", argv=flags)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text("out: there\npart: {kind: b, count: 5}\nfast: true\nsizes: [1, 2]\n")
    return path


def test_flags_alone() -> None:
    assert read("--out", "x", "--part.count", "2") == Job(out="x", part=Part(count=2))


def test_a_file(file: Path) -> None:
    expected = Job(out="there", part=Part(kind="b", count=5), fast=True, sizes=(1, 2))
    assert read("--config", str(file)) == expected


def test_a_flag_wins_over_the_file(file: Path) -> None:
    job = read("--config", str(file), "--part.count=7", "--fast", "False", "--sizes", "9")
    assert job == Job(out="there", part=Part(kind="b", count=7), sizes=(9,))


@pytest.mark.parametrize("flags", [["--fast"], ["--fast", "True"], ["--fast=True"]])
def test_a_switch_needs_no_value(flags: list[str]) -> None:
    assert read(*flags, "--out", "x").fast
    assert read("--out", "x", *flags).fast
    assert not read("--out", "x", "--fast", "False").fast


def test_what_is_printed_gives_the_same_settings(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        read("--config", str(file), "--print-config")
    assert stop.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert read("--config", str(printed)) == read("--config", str(file))


def test_help_tells_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--config FILE" in shown
    assert "--part.count INT" in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${VSA_PLACE}/x", "/data/x"),
        ("${VSA_PLACE:-/other}", "/data"),
        ("${VSA_NOWHERE:-/other}", "/other"),
        ("${VSA_PLACE:+$VSA_PLACE/phrases}", "/data/phrases"),
        ("${VSA_NOWHERE:+$VSA_NOWHERE/phrases}", ""),
    ],
)
def test_environment_variables(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSA_PLACE", "/data")
    monkeypatch.delenv("VSA_NOWHERE", raising=False)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"out": text}))
    assert read("--config", str(tmp_path / "job.yaml")).out == expected


def test_a_variable_that_a_flag_replaces_need_not_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VSA_NOWHERE", raising=False)
    (tmp_path / "job.yaml").write_text("out: ${VSA_NOWHERE}\n")
    assert read("--config", str(tmp_path / "job.yaml"), "--out", "here").out == "here"
    with pytest.raises(ConfigError, match="out needs the environment variable VSA_NOWHERE"):
        read("--config", str(tmp_path / "job.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "expected settings"), ("a: [", "not YAML"), (None, "No such file")],
)
def test_files_that_cannot_be_read(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read("--config", str(tmp_path / "job.yaml"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x", "--part.count", "0"], "Part.count must be >= 1, got 0"),
        (["--out", "x", "--part.kind", "c"], "invalid choice 'c'"),
        (["--out", "x", "--part.cuont", "2"], "--part.count"),
        ([], "--out"),
    ],
)
def test_wrong_settings_are_named(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        read(*flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part: {cuont: 2}", "there is no setting part.cuont; did you mean part.count?"),
        ("prat: {count: 2}", "there is no setting prat.count; did you mean part.count?"),
        ("fast: {much: 1}", "there is no setting fast.much; did you mean fast?"),
        ("weather: fine", "there is no setting weather; --help lists them"),
        ("part: 3", "part is a group of settings: part.kind, part.count"),
    ],
)
def test_a_wrong_name_in_a_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"out: x\n{text}\n")
    with pytest.raises(ConfigError, match=re.escape(f"--config {file}: {message}")):
        read("--config", str(file))


def test_names_in_a_file_may_be_written_as_flags_are(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("out: x\nold-name: 4\n")
    assert read("--config", str(tmp_path / "job.yaml")).old_name == 4
    assert read("--config", str(tmp_path / "job.yaml"), "--old-name", "5").old_name == 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Several jobs."""

    out: str
    part: Part = field(default_factory=Part)
    part_training: Part = field(default_factory=Part)
    other: Part = field(default_factory=Part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One of them."""

    out: str = "here"
    other: str = "a path"
    part: Part = field(default_factory=Part)
    training: Part = field(default_factory=Part)


def stage(file: Path, text: str, *flags: str) -> Stage:
    file.write_text(text)
    recipe = Recipe(
        names=frozenset(names(Chain)),
        elsewhere=frozenset({"out"}),
        groups={"part_training": "training"},
    )
    argv = ["--config", str(file), *flags]
    return parse(Stage, description="", argv=argv, recipe=recipe)


def test_a_job_takes_its_own_settings_of_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VSA_NOWHERE", raising=False)
    text = "part: {kind: b}\npart-training: {count: 5}\nother: {kind: '${VSA_NOWHERE}'}\nout: x\n"
    file = tmp_path / "recipe.yaml"
    expected = Stage(part=Part(kind="b"), training=Part(count=5))
    assert stage(file, text) == expected
    flags = ("--training.count", "7", "--part.kind", "a", "--out", "y")
    assert stage(file, text, *flags) == Stage(out="y", training=Part(count=7))


def test_a_file_of_its_own_is_no_recipe(tmp_path: Path) -> None:
    own = Stage(out="x", other="y", training=Part(count=5))
    assert stage(tmp_path / "own.yaml", to_yaml(own)) == own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part_training: {cuont: 2}", "part_training.cuont; did you mean part_training.count?"),
        ("trainign: {count: 2}", "trainign.count; did you mean training.count?"),
        ("sky: blue", "sky; --help lists them"),
    ],
)
def test_what_no_job_knows_is_refused_in_a_recipe(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"there is no setting {message}")):
        stage(tmp_path / "recipe.yaml", f"other: {{count: 2}}\n{text}\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Heir:
    source: str = ""
    part: Part = field(default_factory=Part)

    def inherited(self) -> Heir:
        if not self.source:
            raise ConfigError("--source: there is none")
        return replace(self, part=Part(kind="b", count=int(self.source)))


def test_what_is_not_given_is_inherited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def heir(*flags: str) -> Heir:
        return parse(Heir, description="", argv=["--source", "7", *flags])

    file = tmp_path / "job.yaml"
    file.write_text("part: {count: 3}\n")
    assert heir() == Heir(source="7", part=Part(kind="b", count=7))
    # Given, though they are the defaults.
    assert heir("--part.kind", "a") == Heir(source="7", part=Part(kind="a", count=7))
    assert heir("--config", str(file)) == Heir(source="7", part=Part(kind="b", count=3))
    with pytest.raises(SystemExit):
        heir("--print-config")
    assert yaml.safe_load(capsys.readouterr().out)["part"] == {"kind": "b", "count": 7}
    with pytest.raises(ConfigError, match="--source: there is none"):
        parse(Heir, description="", argv=[])


def test_flatten_and_yaml() -> None:
    assert dict(flatten({"a": {"b": {"c": 1}}, "d": [2]})) == {"a.b.c": 1, "d": [2]}
    assert yaml.safe_load(to_yaml(Job(out="x", sizes=(1,))))["sizes"] == [1]
