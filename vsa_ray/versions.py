"""Versions of this project, of Python and of packages, to record with results."""

from __future__ import annotations

import importlib.metadata
import platform

from vsa_ray import __version__


def versions(*packages: str) -> dict[str, str]:
    """Versions by name; also of this project if it is not installed, since clusters run it from a
    folder."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"vsa_ray": __version__, **found, "python": platform.python_version()}
