"""Models on disk: safetensors and JSON, which cannot execute code when they are loaded.

DIR/model.safetensors   weights
DIR/vocabulary.json     the words behind the ids
DIR/config.json         the model's class, settings and sizes, and the digests of the other two;
                        written last, so that a directory with it holds a complete model

During training, also:

DIR/optimizer.safetensors   the optimizer's state
DIR/progress.json           how far the training is, and the digest of the optimizer's state
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import nn

from vsa_ray import storage
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN
from vsa_ray.vocabulary import Vocabulary

WEIGHTS, VOCABULARY, CONFIG = FILES = ("model.safetensors", "vocabulary.json", "config.json")

OPTIMIZER, PROGRESS = PROGRESS_FILES = ("optimizer.safetensors", "progress.json")

Config = TypeVar("Config", AlignmentConfig, CaptionerConfig)


@dataclass(frozen=True, slots=True)
class Aligner:
    """An alignment model and the vocabulary it was trained with."""

    model: AlignmentModel
    vocabulary: Vocabulary


@dataclass(frozen=True, slots=True)
class Captioner:
    """A caption model and the vocabulary it was trained with."""

    model: MultimodalRNN
    vocabulary: Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a training is. With its seed, this determines everything random that follows."""

    epoch: int = 0
    """Finished epochs."""

    step: int = 0
    """Finished steps of the current epoch."""

    loss: float = 0.0
    """Sum of the losses of these steps."""


def best_device() -> str:
    """The device that a model in this process should run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def save(uri: str, model: AlignmentModel | MultimodalRNN, vocabulary: Vocabulary) -> None:
    """Write a model as a checkpoint directory."""
    _write_tensors(storage.join(uri, WEIGHTS), model.state_dict())
    vocabulary.save(storage.join(uri, VOCABULARY))
    description = {
        "model": type(model).__name__,
        "config": dataclasses.asdict(model.config),
        "feature_dim": len(model.mean_F),
        "sha256": _digests(uri, WEIGHTS, VOCABULARY),
    }
    storage.write_json(storage.join(uri, CONFIG), description)


def copy(source: str, target: str) -> None:
    """Copy a model, without its training progress."""
    _copy(source, target, FILES)


def upload(directory: str, uri: str) -> None:
    """Copy a model with its training progress; it only counts as a model after the last file."""
    _copy(directory, uri, (*PROGRESS_FILES, *FILES))


def _copy(source: str, target: str, names: tuple[str, ...]) -> None:
    for name in names:
        storage.write_bytes(
            storage.join(target, name), storage.read_bytes(storage.join(source, name))
        )


def save_progress(uri: str, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write what training needs to resume, next to the model."""
    state = {
        f"{parameter}.{name}": value
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    _write_tensors(storage.join(uri, OPTIMIZER), state)
    description = {**dataclasses.asdict(progress), "sha256": _digests(uri, OPTIMIZER)}
    storage.write_json(storage.join(uri, PROGRESS), description)


def load_progress(uri: str, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore the optimizer's state -> how far the training was.

    Raises:
        storage.StorageError: a file is missing, broken, or of another model.
    """
    path = storage.join(uri, PROGRESS)
    try:
        values = dict(storage.read_json(path))
        digests = values.pop("sha256")
        progress = Progress(**values)
    except FileNotFoundError as error:
        raise storage.StorageError(f"{path} is missing") from error
    except (KeyError, TypeError, ValueError) as error:
        raise storage.StorageError(f"{path} does not fit this version: {error!r}") from error
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _tensors(storage.join(uri, OPTIMIZER), digests).items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    _check_memory(storage.join(uri, OPTIMIZER), state, optimizer)
    groups = optimizer.state_dict()["param_groups"]  # settings; the rate is the schedule's
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return progress


def _check_memory(
    path: str, state: dict[int, dict[str, torch.Tensor]], optimizer: torch.optim.Optimizer
) -> None:
    """Check that each state tensor is a scalar or has the shape of its parameter."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for index, values in state.items():
        if index >= len(parameters):
            raise storage.StorageError(f"{path} belongs to another model: it has more parameters")
        for name, value in values.items():
            if value.ndim and value.shape != parameters[index].shape:
                raise storage.StorageError(
                    f"{path} belongs to another model: {index}.{name} has shape "
                    f"{tuple(value.shape)}, but the parameter has {tuple(parameters[index].shape)}"
                )


def load_weights(uri: str, model: nn.Module) -> None:
    """Load the weights into an existing model.

    Raises:
        storage.StorageError: the file is missing, broken, or belongs to another model.
    """
    path = storage.join(uri, WEIGHTS)
    weights = _tensors(path, _description(uri).get("sha256"))
    expected = model.state_dict()
    for name in sorted({*weights, *expected}):
        found, needed = (
            f"shape {tuple(tensors[name].shape)}" if name in tensors else "missing"
            for tensors in (weights, expected)
        )
        if found != needed:
            raise storage.StorageError(
                f"{path} belongs to another model: {name}: {found} in the file, but {needed} in "
                "the model to load it into"
            )
    model.load_state_dict(weights)


def load_aligner(uri: str, device: torch.device | str = "cpu") -> Aligner:
    """The alignment model of a checkpoint directory, ready for use.

    Raises:
        storage.StorageError: it is missing, broken, or holds another model.
    """
    config, feature_dim, vocabulary = _describe(uri, AlignmentModel, AlignmentConfig)
    model = AlignmentModel(config, feature_dim=feature_dim, vocabulary_size=len(vocabulary))
    load_weights(uri, model)
    return Aligner(model.to(device).eval(), vocabulary)


def load_captioner(uri: str, device: torch.device | str = "cpu") -> Captioner:
    """The caption model of a checkpoint directory, ready for use.

    Raises:
        storage.StorageError: it is missing, broken, or holds another model.
    """
    config, feature_dim, vocabulary = _describe(uri, MultimodalRNN, CaptionerConfig)
    model = MultimodalRNN(
        config,
        feature_dim=feature_dim,
        vocabulary_size=len(vocabulary),
        log_frequencies_V=None,
    )
    load_weights(uri, model)
    return Captioner(model.to(device).eval(), vocabulary)


def _description(uri: str) -> dict[str, Any]:
    """What config.json says.

    Raises:
        storage.StorageError: it is missing, or no description.
    """
    try:
        description = storage.read_json(storage.join(uri, CONFIG))
    except FileNotFoundError as error:
        raise storage.StorageError(f"{uri} holds no complete model: {error}") from error
    return description if isinstance(description, dict) else {}


def _describe(
    uri: str, model: type[nn.Module], config: type[Config]
) -> tuple[Config, int, Vocabulary]:
    """Config, feature width and vocabulary of the model in a checkpoint directory."""
    description = _description(uri)
    kind = description.get("model")
    if kind != model.__name__:
        raise storage.StorageError(
            f"{uri} holds {kind or 'something else'}, but {model.__name__} is needed"
        )
    path = storage.join(uri, VOCABULARY)
    try:
        vocabulary = Vocabulary.load(path)
        _check(path, storage.read_bytes(path), description.get("sha256"))
    except FileNotFoundError as error:
        raise storage.StorageError(f"{uri} holds no complete model: {error}") from error
    try:
        return config(**description["config"]), int(description["feature_dim"]), vocabulary
    except (KeyError, TypeError, ValueError) as error:
        raise storage.StorageError(
            f"{uri}/config.json does not fit this version: {error!r}"
        ) from error


def _write_tensors(path: str, tensors: dict[str, torch.Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    storage.write_bytes(path, safetensors.torch.save(plain))


def _tensors(path: str, digests: object) -> dict[str, torch.Tensor]:
    try:
        data = storage.read_bytes(path)
        tensors = safetensors.torch.load(data)
    except FileNotFoundError as error:
        raise storage.StorageError(f"{path} is missing") from error
    except safetensors.SafetensorError as error:
        raise storage.StorageError(f"{path} is not an intact safetensors file: {error}") from error
    _check(path, data, digests)
    return tensors


def _digests(uri: str, *names: str) -> dict[str, str]:
    return {name: _digest(storage.read_bytes(storage.join(uri, name))) for name in names}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check(path: str, data: bytes, digests: object) -> None:
    """Raise storage.StorageError if a file is not the one that was saved."""
    name = path.rpartition("/")[2]
    expected = digests.get(name) if isinstance(digests, dict) else None
    if expected is None:  # saved by a version that wrote no digests
        return
    if _digest(data) != expected:
        raise storage.StorageError(
            f"{path} is not the file that was saved: its sha256 is {_digest(data)[:12]}..., but "
            f"{str(expected)[:12]}... was saved; it was modified, or belongs to another model"
        )
