"""Versions, of this project too where it is not installed."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest

import vsa_ray
from vsa_ray.versions import versions


def test_versions_of_packages() -> None:
    found = versions("torch")
    assert found == {
        "vsa_ray": vsa_ray.__version__,
        "torch": importlib.metadata.version("torch"),
        "python": platform.python_version(),
    }


def test_this_project_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster its code is the working directory of a job, and no package."""
    of_packages = importlib.metadata.version

    def version(name: str) -> str:
        if name == "vsa_ray":
            raise importlib.metadata.PackageNotFoundError(name)
        return of_packages(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions("ray")["vsa_ray"] == vsa_ray.__version__
