"""Load weight files as state dicts, without executing code from the files."""

from __future__ import annotations

import importlib.util
import io
import pickle
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vsa_ray import storage
from vsa_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

PYPI = "pypi:"


def read_state_dict(uri: str) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a .safetensors file or a torch.save'd dict of tensors.

    Raises:
        UserError: the file is neither.
    """
    import safetensors.torch
    import torch

    data = storage.read_bytes(uri)
    try:
        if uri.endswith(".safetensors"):
            tensors: dict[str, Tensor] = safetensors.torch.load(data)
        else:
            tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise UserError(f"{uri}: no state dict can be read from it ({error!r})") from error
    if not isinstance(tensors, dict):
        raise UserError(f"{uri}: holds a {type(tensors).__name__}, not a dict of tensors")
    return tensors


def names_file(uri: str) -> str:
    """The file that lists a detector's classes, one per line: `<model>.names`, next to it."""
    return f"{uri.removesuffix(PurePosixPath(uri).suffix)}.names"


def named_classes(uri: str) -> list[str] | None:
    """The lines of the names file; None if there is none, so the classes are COCO's."""
    file = names_file(uri)
    return storage.read_text(file).splitlines() if storage.exists(file) else None


def packaged(name: str) -> str:
    """The path of the one .pth file in an installed package, from "pypi:<package>".

    Raises:
        UserError: there is no such package, or it does not hold exactly one.
    """
    package = name.removeprefix(PYPI)
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{name}: package {package} is not installed; `pip install {package}`")
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    if len(files) != 1:
        raise UserError(f"{name}: expected one .pth file in package {package}, found {len(files)}")
    return str(files[0])


def fit_by_name(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load `tensors` into `model`; surplus tensors, such as a classifier, are ignored.

    Raises:
        UserError: a tensor of the model is missing, or has another shape.
    """
    try:
        missing = model.load_state_dict(tensors, strict=False).missing_keys
    except RuntimeError as error:
        raise UserError(f"{source} does not fit the model: {error}") from error
    if missing:
        raise UserError(f"{source} does not fit the model: no tensor {missing[0]!r} in it")


def fit_in_order(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """`fit_by_name` for the same network with other parameter names: match tensors by order."""
    names = list(model.state_dict())
    if len(tensors) < len(names):
        raise UserError(
            f"{source} does not fit the model: {len(tensors)} tensors in it, "
            f"{len(names)} in the model"
        )
    fit_by_name(model, dict(zip(names, tensors.values(), strict=False)), source)
