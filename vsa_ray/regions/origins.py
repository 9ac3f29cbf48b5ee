"""The settings regions were made with, as recorded in their table and in models trained on them.

A model only works well on regions made like its training regions, with the same backbone and maps.
So a captioner records, as part of what it was made from, the settings of its training regions.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from vsa_ray import storage
from vsa_ray.regions.config import RegionConfig

TABLE, MODEL = "regions.", "features."
"""Prefixes of RegionConfig's settings in the `made_from` of a table, and of a model."""

WHERE = {"device", "precision"}
"""Settings of RegionConfig that depend on the machine, and are not inherited from a model."""


def made_with(regions: str) -> dict[str, Any]:
    """The settings that a `regions` table was made with, except machine-dependent ones; empty if
    they are not known."""
    found = _settings(regions, TABLE)
    names = [field.name for field in fields(RegionConfig) if field.name not in WHERE]
    return {name: found[name] for name in names if name in found}


def learning_from(regions: str) -> dict[str, Any]:
    """What a model trained on a `regions` table adds to its `made_from`."""
    return {MODEL + name: value for name, value in made_with(regions).items()}


def learned_from(model: str) -> dict[str, Any]:
    """`made_with` of the regions that a model was trained on; empty if they are not known."""
    return _settings(model, MODEL)


def _settings(uri: str, prefix: str) -> dict[str, Any]:
    made_from: dict[str, Any] = (storage.committed(uri) or {}).get("made_from", {})
    return {
        name.removeprefix(prefix): value
        for name, value in made_from.items()
        if name.startswith(prefix)
    }
