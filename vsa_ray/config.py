"""A job's settings: a YAML file plus flags, into one typed dataclass.

Every field of a job's config is a flag (`--regions.detector onnx`). A YAML file holds the same
names, nested; it is read as if its settings were flags written first, so both are checked alike and
a flag wins over the file. Environment variables may stand in the file: `${NAME}` must be set,
`${NAME:-default}` falls back, `${NAME:+text}` gives text (with `$NAME` in it) only if it is set.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

import tyro
import yaml

from vsa_ray import storage
from vsa_ray.errors import UserError

Config = TypeVar("Config")

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-+])([^}]*))?\}")

_ABOUT_FILES = """
Every setting below may also stand in a YAML file:
  --config FILE     read settings from FILE, a path or s3:// (see jobs/configs/); flags win over it
  --print-config    print the resulting settings as YAML, and stop
"""


class ConfigError(UserError):
    """Settings that cannot work, with what to do about it."""


def parse(
    config_type: type[Config], *, description: str, argv: Sequence[str], prog: str | None = None
) -> Config:
    """Settings from `argv`; prints help or the settings and exits where asked to.

    Args:
        prog: how the program is called, for help and errors.

    Raises:
        ConfigError: the YAML file is missing or malformed, or names an unknown setting or an
            unset variable.
        SystemExit: tyro has shown what is wrong with a setting, or what was asked for.
    """
    files = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    files.add_argument("--config", default="")
    files.add_argument("--print-config", action="store_true")
    own, flags = files.parse_known_args(argv)
    given = {name(flag) for flag in flags if flag.startswith("--")}
    settings = _flags_of(own.config, given, config_type) if own.config else []
    config = tyro.cli(
        config_type,
        args=[*settings, *flags],
        prog=prog,
        description=description.strip() + "\n" + _ABOUT_FILES,
        config=(tyro.conf.FlagConversionOff,),
    )
    if own.print_config:
        sys.stdout.write(to_yaml(config))
        raise SystemExit(0)
    return config


def name(flag: str) -> str:
    """`--Regions.max-boxes=3` and `--regions.max_boxes` are one setting: `regions.max_boxes`."""
    return flag.removeprefix("--").partition("=")[0].replace("-", "_")


def to_yaml(config: Any) -> str:
    """The settings as a YAML file that gives them back."""
    plain = _plain(dataclasses.asdict(config))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _flags_of(path: str, given: set[str], config_type: type[Any]) -> list[str]:
    """The settings of a YAML file as flags, but for those that the command line gives."""
    flags = []
    for key, value in flatten(_read(path)):
        if value is None:  # a name with nothing behind it
            continue
        _check_name(key, config_type, path)
        if name(key) in given:
            continue
        values = value if isinstance(value, list) else [value]
        texts = [_expand(str(item), f"--config {path}: {key}") for item in values]
        flags += [f"--{key}", *texts] if isinstance(value, list) else [f"--{key}={texts[0]}"]
    return flags


def _read(path: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(storage.read_text(path)) or {}
    except FileNotFoundError as error:
        raise ConfigError(f"--config {path}: No such file or directory") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {path}: expected settings (name: value), got {settings!r}")
    return settings


def _check_name(key: str, config_type: type[Any], path: str) -> None:
    known = list(_names(config_type))
    if name(key) in known:
        return
    if inside := [other for other in known if other.startswith(f"{name(key)}.")]:
        raise ConfigError(f"--config {path}: {key} has settings of its own: {', '.join(inside)}")
    close = difflib.get_close_matches(name(key), known, n=1)
    hint = f"did you mean {close[0]}?" if close else "--help lists them"
    raise ConfigError(f"--config {path}: there is no setting {key}; {hint}")


def _names(config_type: type[Any]) -> Iterator[str]:
    """Dotted names of all settings."""
    types = get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        if dataclasses.is_dataclass(kind := types[field.name]):
            yield from (f"{field.name}.{inside}" for inside in _names(kind))  # type: ignore[arg-type]
        else:
            yield field.name


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings under dotted names: ("regions.detector", "onnx"), ..."""
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
