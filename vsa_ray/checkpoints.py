"""Models on disk: safetensors and JSON, nothing that runs code when it is read.

DIR/model.safetensors   weights
DIR/vocabulary.json     the words behind the ids
DIR/config.json         which model, its settings and sizes; written last, so that a directory with
                        it holds a whole model
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import safetensors
import safetensors.torch
import torch
from torch import nn

from vsa_ray import storage
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN
from vsa_ray.vocabulary import Vocabulary

FILES = ("model.safetensors", "vocabulary.json", "config.json")

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


def best_device() -> str:
    """Where a model of this process should run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def save(uri: str, model: AlignmentModel | MultimodalRNN, vocabulary: Vocabulary) -> None:
    """Write a model as a checkpoint directory."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    storage.write_bytes(storage.join(uri, "model.safetensors"), safetensors.torch.save(weights))
    description = {
        "model": type(model).__name__,
        "config": dataclasses.asdict(model.config),
        "feature_dim": len(model.mean_F),
    }
    vocabulary.save(storage.join(uri, "vocabulary.json"))
    storage.write_json(storage.join(uri, "config.json"), description)


def copy(source: str, target: str) -> None:
    """Copy a model, without the progress of its training."""
    for name in FILES:
        storage.write_bytes(
            storage.join(target, name), storage.read_bytes(storage.join(source, name))
        )


def save_progress(uri: str, optimizer: torch.optim.Optimizer, *, epochs: int) -> None:
    """Write what training needs to go on after so many epochs."""
    state = {
        f"{parameter}.{name}": value.cpu().contiguous()
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    storage.write_bytes(storage.join(uri, "optimizer.safetensors"), safetensors.torch.save(state))
    storage.write_json(storage.join(uri, "progress.json"), {"epochs": epochs})


def load_progress(uri: str, optimizer: torch.optim.Optimizer) -> int:
    """Give the optimizer its memory back -> epochs that are done.

    Raises:
        storage.StorageError: a file is missing or broken.
    """
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _tensors(storage.join(uri, "optimizer.safetensors")).items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    path = storage.join(uri, "progress.json")
    try:
        return int(storage.read_json(path)["epochs"])
    except FileNotFoundError as error:
        raise storage.StorageError(f"{path} is missing") from error


def load_weights(uri: str, model: nn.Module) -> None:
    """Fill a model that is built already.

    Raises:
        storage.StorageError: the file is missing, broken, or of another model.
    """
    path = storage.join(uri, "model.safetensors")
    try:
        model.load_state_dict(_tensors(path))
    except RuntimeError as error:
        raise storage.StorageError(f"{path} is of another model: {error}") from error


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


def _describe(
    uri: str, model: type[nn.Module], config: type[Config]
) -> tuple[Config, int, Vocabulary]:
    """Settings, width of the feature and vocabulary of the model in a checkpoint directory."""
    try:
        description = storage.read_json(storage.join(uri, "config.json"))
        vocabulary = Vocabulary.load(storage.join(uri, "vocabulary.json"))
    except (FileNotFoundError, storage.StorageError) as error:
        raise storage.StorageError(f"{uri} holds no model, or a part of one: {error}") from error
    kind = description.get("model") if isinstance(description, dict) else None
    if kind != model.__name__:
        raise storage.StorageError(
            f"{uri} holds {kind or 'another thing'}, but {model.__name__} is needed"
        )
    try:
        return config(**description["config"]), int(description["feature_dim"]), vocabulary
    except (KeyError, TypeError, ValueError) as error:
        raise storage.StorageError(
            f"{uri}/config.json does not fit this version: {error!r}"
        ) from error


def _tensors(path: str) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(storage.read_bytes(path))
    except FileNotFoundError as error:
        raise storage.StorageError(f"{path} is missing") from error
    except safetensors.SafetensorError as error:
        raise storage.StorageError(f"{path} is not a whole safetensors file: {error}") from error
