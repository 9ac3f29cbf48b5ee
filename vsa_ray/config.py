"""A job's settings: a YAML file plus flags, parsed into one typed dataclass.

Every field of a job's config is a flag (`--regions.detector onnx`). A YAML file has the same names,
nested; its settings are treated like flags that come first, so both are validated alike and a flag
overrides the file. The file may use environment variables: `${NAME}` must be set,
`${NAME:-default}` has a default, `${NAME:+text}` gives text (with `$NAME` in it) only if it is set.

A file may be a recipe with the settings of several jobs: each job uses its own. A setting that none
of them has is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, Self, TypeVar, get_type_hints, runtime_checkable

import tyro
import yaml

from vsa_ray import storage
from vsa_ray.errors import UserError

Config = TypeVar("Config")

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-+])([^}]*))?\}")

_ABOUT_FILES = """
Every setting below may also stand in a YAML file:
  --config FILE     read settings from FILE, a path or s3:// (see jobs/configs/); flags override it
{recipe}  --print-config    print the resulting settings as YAML, and exit
"""


class ConfigError(UserError):
    """Invalid settings; the message says what to do about it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a job reads a file that also holds the settings of other jobs."""

    names: frozenset[str]
    """All settings that a recipe may contain, dotted."""

    elsewhere: frozenset[str] = frozenset()
    """Settings that are never this job's, even if it has one of the same name."""

    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Groups that this job calls by another name: {"alignment_training": "training"}."""

    def here(self, setting: str) -> str:
        """This job's name of a setting; "" if it is never this job's."""
        if setting in self.elsewhere:
            return ""
        group, dot, inside = setting.partition(".")
        return f"{self.groups.get(group, group)}{dot}{inside}"

    def about(self) -> str:
        """For --help."""
        lines = ["FILE may be a recipe: its paths and the settings of other jobs are ignored"]
        lines += [f"and its {theirs} is used as {ours}" for theirs, ours in self.groups.items()]
        return "".join(f"{'':20}{line}\n" for line in lines)


@runtime_checkable
class Inherits(Protocol):
    """Settings that default to those of something else, such as a model."""

    def inherited(self) -> Self:
        """These settings, with defaults replaced by what they inherit.

        Raises:
            UserError: there is nothing to inherit from.
        """
        ...


def parse(
    config_type: type[Config],
    *,
    description: str,
    argv: Sequence[str],
    prog: str | None = None,
    recipe: Recipe | None = None,
) -> Config:
    """Settings from `argv`; if asked to, prints help or the settings and exits.

    Settings given neither by flag nor in the file are inherited if the config `Inherits`, and have
    their defaults otherwise.

    Args:
        prog: name of the program, for help and errors.
        recipe: how to read a file with the settings of other jobs; without it they are refused.

    Raises:
        ConfigError: the YAML file is missing or malformed, or names an unknown setting or an
            unset variable.
        SystemExit: tyro has printed what is wrong with a setting, or the output asked for.
    """
    files = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    files.add_argument("--config", default="")
    files.add_argument("--print-config", action="store_true")
    own, flags = files.parse_known_args(argv)
    given = {name(flag) for flag in flags if flag.startswith("--")}
    settings = _flags_of(own.config, given, config_type, recipe) if own.config else []
    about = _ABOUT_FILES.format(recipe=recipe.about() if recipe else "")
    read = partial(
        tyro.cli,
        config_type,
        args=[*settings, *_spelled_out(flags, config_type)],
        prog=prog,
        description=description.strip() + "\n" + about,
        config=(tyro.conf.FlagConversionOff,),
    )
    config: Config = read()
    if isinstance(config, Inherits):
        config = read(default=config.inherited())  # given settings still win
    if own.print_config:
        sys.stdout.write(to_yaml(config))
        raise SystemExit(0)
    return config


def name(flag: str) -> str:
    """`--Regions.max-boxes=3` and `--regions.max_boxes` are one setting: `regions.max_boxes`."""
    return flag.removeprefix("--").partition("=")[0].replace("-", "_")


def _spelled_out(flags: Sequence[str], config_type: type[Any]) -> Iterator[str]:
    """`--resume` on its own means `--resume True`."""
    switches = {*names(config_type, bool)}
    for flag, following in pairwise([*flags, "--"]):
        yield flag
        alone = flag.startswith("--") and "=" not in flag and following.startswith("-")
        if alone and name(flag) in switches:
            yield "True"


def to_yaml(config: Any) -> str:
    """The settings as YAML that parses back into them."""
    plain = _plain(dataclasses.asdict(config))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _flags_of(
    path: str, given: set[str], config_type: type[Any], recipe: Recipe | None
) -> list[str]:
    """The settings of a YAML file as flags, without those given on the command line and those of
    other jobs."""
    # A name without a value sets nothing.
    settings = {key: value for key, value in flatten(_read(path)) if value is not None}
    own = list(names(config_type))
    others = sorted(recipe.names.difference(own)) if recipe else []
    for key in settings:
        _check_name(key, [*own, *others], path)
    # A job's own file, as --print-config writes it, is not a recipe.
    is_recipe = any(name(key) in others for key in settings)
    flags = []
    for key, value in settings.items():
        setting = recipe.here(name(key)) if recipe and is_recipe else name(key)
        if setting not in own or setting in given:
            continue
        values = value if isinstance(value, list) else [value]
        texts = [_expand(str(item), f"--config {path}: {key}") for item in values]
        many = isinstance(value, list)
        flags += [f"--{setting}", *texts] if many else [f"--{setting}={texts[0]}"]
    return flags


def _read(path: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(storage.read_text(path)) or {}
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: No such file or directory") from error
    except OSError as error:
        raise ConfigError(f"--config {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path}: expected settings (name: value), got {settings!r}")
    return settings


def _check_name(key: str, known: Sequence[str], path: str) -> None:
    if name(key) in known:
        return
    if inside := [other for other in known if other.startswith(f"{name(key)}.")]:
        raise ConfigError(f"--config {path}: {key} is a group of settings: {', '.join(inside)}")
    close = difflib.get_close_matches(name(key), known, n=1)
    hint = f"did you mean {close[0]}?" if close else "--help lists them"
    raise ConfigError(f"--config {path}: there is no setting {key}; {hint}")


def names(config_type: type[Any], of_type: type[Any] | None = None) -> Iterator[str]:
    """Dotted names of all settings, or of those of one type."""
    types = get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        if dataclasses.is_dataclass(kind := types[field.name]):
            inner = names(kind, of_type)  # type: ignore[arg-type]
            yield from (f"{field.name}.{inside}" for inside in inner)
        elif of_type in (None, kind):
            yield field.name


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted names: ("regions.detector", "onnx"), ..."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _expand(text: str, where: str) -> str:
    def replace(match: re.Match[str]) -> str:
        variable, operator, word = match.groups()
        value = os.environ.get(variable, "")
        if operator == "+":
            return os.path.expandvars(word) if value else ""
        if not value and operator is None:
            raise ConfigError(f"{where} needs the environment variable {variable}; set it")
        return value or word

    return _VARIABLE.sub(replace, text)
