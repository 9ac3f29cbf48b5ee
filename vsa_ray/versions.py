"""What a run was made with: versions of this project, of Python and of packages."""

from __future__ import annotations

import importlib.metadata
import platform

from vsa_ray import __version__


def versions(*packages: str) -> dict[str, str]:
    """By name; of this project as it runs, installed or not: clusters run it from a folder."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"vsa_ray": __version__, **found, "python": platform.python_version()}
