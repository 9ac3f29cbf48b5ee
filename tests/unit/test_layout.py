"""Rules of the project that no linter knows: who may import what, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("vsa_ray", "jobs")

DOORS = {
    "ray": {
        *(f"vsa_ray.datasets.{name}" for name in ("cluster", "making", "tables")),
        *("vsa_ray.training.loop", "vsa_ray.tuning", "vsa_ray.messages"),
    },
    "mlflow": {"vsa_ray.tracking"},
    "pycocoevalcap": {"vsa_ray.metrics.captions", "vsa_ray.metrics.java"},
}
"""What a library's name may be imported by, in vsa_ray."""

NO_RAY_IN = {
    *("vsa_ray.alignment", "vsa_ray.mrnn", "vsa_ray.metrics", "vsa_ray.regions"),
    *("vsa_ray.captions", "vsa_ray.snippets", "vsa_ray.images", "vsa_ray.corpora"),
    *("vsa_ray.evaluation", "vsa_ray.gallery", "vsa_ray.checkpoints", "vsa_ray.search"),
    *(f"vsa_ray.training.{name}" for name in ("tasks", "alignment_task", "caption_task")),
}
"""Models and stages: they import no Ray, and nothing that does."""

STAGES = ("vsa_ray.images", "vsa_ray.regions", "vsa_ray.captions", "vsa_ray.snippets")
"""What runs in the actors of a job that makes a table: what measures models is not for them."""


def modules(*packages: str) -> dict[str, Path]:
    """Every module of some packages by its name; a package stands for its __init__.py."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules(*PACKAGES)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Names of all modules that a file imports, wherever in it; `from a import b` gives a and a.b.

    Relative imports are forbidden by the linter, so every name is whole.
    """
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level == 0, f"{path} imports relatively"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in submodules if name in MODULES]
            yield from ours
            # `from vsa_ray import storage` needs nothing of vsa_ray itself.
            if len(ours) < len(submodules):
                yield node.module


def graph() -> dict[str, set[str]]:
    """Our modules, and which of ours each imports."""
    return {name: {*imported(path)} & MODULES.keys() for name, path in MODULES.items()}


def reached_from(name: str, edges: dict[str, set[str]]) -> set[str]:
    """All of ours that is loaded with a module, sooner or later; with a.b comes its package a."""
    reached, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            package = one.rpartition(".")[0]
            waiting += edges[one] | ({package} & MODULES.keys())
    return reached


@pytest.mark.parametrize("library", DOORS)
def test_a_library_has_its_doors(library: str) -> None:
    users = {
        name
        for name, path in modules("vsa_ray").items()
        if any(module.partition(".")[0] == library for module in imported(path))
    }
    assert users == DOORS[library]


def test_models_and_stages_reach_no_ray() -> None:
    edges = graph()
    for name in NO_RAY_IN:
        assert not reached_from(name, edges) & DOORS["ray"], name


@pytest.mark.parametrize("stage", STAGES)
def test_stages_reach_no_caption_scores(stage: str) -> None:
    assert not reached_from(stage, graph()) & DOORS["pycocoevalcap"]


def test_the_library_knows_no_jobs() -> None:
    for name, path in modules("vsa_ray").items():
        assert not any(module.partition(".")[0] == "jobs" for module in imported(path)), name


def test_imports_go_one_way() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' > '.join(error.args[1])}")


def test_no_file_is_long() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in (*PACKAGES, "bench")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: number for name, number in lines.items() if number > 300} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [name for name, path in MODULES.items() if not ast.get_docstring(parsed(path))]
    assert silent == []
