"""Training settings, optimizer and learning rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from vsa_ray.outputs import EXECUTION


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    epochs: int = 20
    """Passes over the training images. The model of the epoch with the best dev score is kept."""

    batch_size: int = 100
    """Images per step, over all workers together. An epoch is cut into batches of equal size, none
    larger than this. The alignment compares the images of a batch with one another, so a larger
    batch means harder comparisons and fewer steps."""

    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    """adam is AdamW; sgd has a momentum of 0.9; rmsprop has a smoothing constant of 0.999, as in
    the authors' code. Each needs its own learning rate."""

    learning_rate: float = 3e-4
    """Learning rate of the first epoch, after warmup_steps. Lower it if the loss becomes NaN or the
    log reports that the model has collapsed."""

    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate of later epochs: constant, or falling from learning_rate towards 0 along a
    cosine over the number of epochs, updated once per epoch."""

    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0 to its full value. Without warm-up
    (0), the first steps of adam and rmsprop can be so large that the model collapses: it gives the
    same score to everything."""

    weight_decay: float = 0.0
    """Weight decay; 0 turns it off. adam decays a weight w by learning_rate * weight_decay * w at
    each step (decoupled); sgd and rmsprop add weight_decay * w to the gradient, after
    max_gradient."""

    max_gradient: float = 5.0
    """Every element of a gradient is clipped to [-max_gradient, max_gradient] (the paper calls this
    important). Lower it if a training becomes unstable."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of matrix products and of the vectors exchanged by workers; weights and losses
    stay float32. bfloat16 is faster on processors that support it (GPUs, and CPUs with AVX512-BF16
    or AMX); others emulate it, slowly."""

    num_workers: int = 1
    """Processes that train one model together: each on its own GPU, or, on a cluster without GPUs,
    all sharing the CPUs. The global batch stays batch_size."""

    min_workers: int = field(default=0, metadata=EXECUTION)
    """Minimum number of processes with which a training starts or continues if there are not enough
    resources for num_workers, for example after the loss of a node; the global batch stays the
    same. 0 waits until there are resources for all."""

    checkpoint_minutes: float = field(default=10.0, metadata=EXECUTION)
    """Minutes between checkpoints within an epoch; another one is written after every epoch. A kill
    costs at most the work since the last checkpoint."""

    measure_every: int = 1
    """Evaluate on dev after every this many epochs, and always after the last. Only evaluated
    epochs can become the kept model. Raise it if evaluation takes as long as an epoch."""

    seed: int = 0
    """Seed of everything random: the initial weights, the order of the images, the choice of an
    image's sentence in each epoch, and dropout."""

    shuffle_images: int = 20_000
    """A corpus of up to this many images is shuffled fully in every epoch. A larger one is shuffled
    within windows of this many images per worker, so that a step needs few parts of the table; see
    training/order.py. An image takes some 50 kB in Ray's object store."""

    def __post_init__(self) -> None:
        for name in ("epochs", "num_workers", "shuffle_images", "measure_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("learning_rate", "max_gradient", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TrainConfig.{name} must be > 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"TrainConfig.{name} must be >= 0, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"TrainConfig.{name} must be finite, got {getattr(self, name)}")
        if not 0 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"TrainConfig.min_workers must be between 0 and num_workers ({self.num_workers}), "
                f"got {self.min_workers}"
            )
        if self.batch_size < 2 * self.num_workers:
            raise ValueError(
                "TrainConfig.batch_size must be at least 2 images per worker, got "
                f"{self.batch_size} for {self.num_workers}"
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
    """The learning rate of one step.

    Args:
        epoch: counted from 0.
        step: step of the whole training, counted from 1.
    """
    rate = config.learning_rate
    if config.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return rate * min(1.0, step / config.warmup_steps) if config.warmup_steps else rate
