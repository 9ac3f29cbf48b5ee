"""How regions were made, as their table says it and as a model says it that learned from them.

A model describes well only what is made as its training regions were: the same backbone, the same
maps. So it says of them, in what it was made from, what their table says of itself.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from vsa_ray import storage
from vsa_ray.regions.config import RegionConfig

TABLE, MODEL = "regions.", "features."
"""How the names of RegionConfig's settings begin in what a table, or a model, was made from."""

WHERE = {"device", "precision"}
"""Settings of RegionConfig that depend on the machine, and not on what a model has learned."""


def made_with(regions: str) -> dict[str, Any]:
    """The settings by name that a `regions` table was made with, but for those that say where the
    work is done; none where they are not known."""
    found = _settings(regions, TABLE)
    names = [field.name for field in fields(RegionConfig) if field.name not in WHERE]
    return {name: found[name] for name in names if name in found}


def learning_from(regions: str) -> dict[str, Any]:
    """What a model that learns from a `regions` table adds to what it is made from."""
    return {MODEL + name: value for name, value in made_with(regions).items()}


def learned_from(model: str) -> dict[str, Any]:
    """`made_with` of the regions that a model learned from; none where they are not known."""
    return _settings(model, MODEL)


def _settings(uri: str, prefix: str) -> dict[str, Any]:
    made_from: dict[str, Any] = (storage.committed(uri) or {}).get("made_from", {})
    return {
        name.removeprefix(prefix): value
        for name, value in made_from.items()
        if name.startswith(prefix)
    }
