"""How a training steps: settings, optimizer, schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from vsa_ray.outputs import HOW


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    epochs: int = 20
    """Passes over the training images."""

    batch_size: int = 100
    """Images of a global batch at most, over all workers. An epoch is cut into equal ones."""

    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    """sgd has momentum 0.9, rmsprop the smoothing 0.999 of the authors' code."""

    learning_rate: float = 3e-4
    """Of the first epoch, after warmup_steps."""

    schedule: Literal["constant", "cosine"] = "cosine"
    """cosine falls from learning_rate to 0 over all epochs."""

    warmup_steps: int = 0
    """Over so many steps the rate rises to that of its epoch: Adam's first ones, of gradients that
    it has hardly seen yet, can put a model where it tells nothing apart."""

    weight_decay: float = 0.0
    """adam takes this share of every weight off it a step, times the learning rate; sgd and rmsprop
    add it, times the weight, to the gradient after its cut."""

    max_gradient: float = 5.0
    """Every element of a gradient is cut at plus and minus this (the paper: important)."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products, and of the vectors that workers exchange; weights, sums and losses are float32.
    bfloat16 is faster where the processor has it: GPUs, and CPUs with AVX512-BF16 or AMX."""

    num_workers: int = 1
    """Processes, one a GPU, or sharing the CPUs."""

    min_workers: int = field(default=0, metadata=HOW)
    """Fewest processes that training goes on with while nodes are missing; the global batch stays
    as it is. 0 waits until there is room for num_workers."""

    checkpoint_minutes: float = field(default=10.0, metadata=HOW)
    """A checkpoint is written so often within an epoch, beside the one at its end."""

    measure_every: int = 1
    """Epochs from one measurement on dev to the next; the last one is always measured. The model
    that is kept is the best of those that were."""

    seed: int = 0
    """Of the first weights, the order of the images, their sentences, and dropout."""

    shuffle_images: int = 20_000
    """Images that every worker shuffles at once, some 50 kB each in the object store. A corpus of
    no more is shuffled fully, a larger one in parts; see training/order.py."""

    def __post_init__(self) -> None:
        for name in ("epochs", "num_workers", "shuffle_images", "measure_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("learning_rate", "max_gradient", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TrainConfig.{name} must be > 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"TrainConfig.{name} must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"TrainConfig.min_workers must be between 0 and num_workers ({self.num_workers}), "
                f"got {self.min_workers}"
            )
        if self.batch_size < 2 * self.num_workers:
            raise ValueError(
                f"TrainConfig.batch_size must be at least 2 images a worker, got {self.batch_size} "
                f"for {self.num_workers}"
            )


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters, decay = model.parameters(), config.weight_decay
    match config.optimizer:
        case "adam":
            return torch.optim.AdamW(
                parameters, lr=config.learning_rate, weight_decay=decay, fused=True
            )
        case "sgd":
            return torch.optim.SGD(
                parameters, lr=config.learning_rate, momentum=0.9, weight_decay=decay
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters, lr=config.learning_rate, alpha=0.999, weight_decay=decay
            )


def learning_rate(config: TrainConfig, epoch: int, step: int) -> float:
    """Of one step.

    Args:
        epoch: counted from 0.
        step: of the whole training, counted from 1.
    """
    rate = config.learning_rate
    if config.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return rate * min(1.0, step / config.warmup_steps) if config.warmup_steps else rate
