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
    """Passes over the training images. The model of the epoch that was best on dev is kept."""

    batch_size: int = 100
    """Images that one step learns from, over all workers together. An epoch is cut into batches of
    equal size, none larger than this. The alignment compares the images of a batch with one
    another, so a larger batch gives it harder comparisons and fewer steps."""

    optimizer: Literal["adam", "sgd", "rmsprop"] = "adam"
    """How gradients become steps. adam is AdamW; sgd has a momentum of 0.9; rmsprop smooths with
    0.999, as the authors' code does. Each needs a learning rate of its own."""

    learning_rate: float = 3e-4
    """Step size in the first epoch, once warmup_steps are over. Lower it where the loss becomes NaN
    or the log says that the model has collapsed."""

    schedule: Literal["constant", "cosine"] = "cosine"
    """Step size of later epochs: constant, or falling from learning_rate towards 0 along a cosine,
    once an epoch, so that it depends on the number of epochs."""

    warmup_steps: int = 0
    """Steps at the beginning in which the step size rises from 0 to its full value. Without them
    (0) the first steps of adam and rmsprop can be so large that the model collapses: it gives the
    same score to everything."""

    weight_decay: float = 0.0
    """How strongly weights are pulled towards 0; 0 does not. adam makes a weight w smaller by
    learning_rate * weight_decay * w at each step; sgd and rmsprop add weight_decay * w to the
    gradient, after max_gradient."""

    max_gradient: float = 5.0
    """Every number of a gradient is clipped to [-max_gradient, max_gradient] (the paper calls this
    important). Lower it where a training becomes unstable."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of matrix products and of the vectors that workers send one another; weights
    and losses stay float32. Set bfloat16 for speed where the processor has it (GPUs, and CPUs with
    AVX512-BF16 or AMX); others imitate it, slowly."""

    num_workers: int = 1
    """Processes that train one model together: each on a GPU of its own, or, on a cluster without
    GPUs, all sharing the CPUs. The global batch stays batch_size."""

    min_workers: int = field(default=0, metadata=HOW)
    """Fewest processes that a training starts or goes on with where there is no room for
    num_workers, say after the loss of a node; the global batch stays the same. 0 waits until there
    is room for all."""

    checkpoint_minutes: float = field(default=10.0, metadata=HOW)
    """Minutes between checkpoints within an epoch; one more is written after every epoch. A kill
    costs at most the work since the last one."""

    measure_every: int = 1
    """Measure on dev after every so many epochs, and always after the last. Only measured epochs
    can become the kept model. Raise it where measuring takes as long as an epoch."""

    seed: int = 0
    """Decides all that is random: the first weights, the order of the images, which sentence of an
    image is learned from in an epoch, and dropout."""

    shuffle_images: int = 20_000
    """A corpus of up to so many images is shuffled fully in every epoch. A larger one is shuffled
    within windows of so many images a worker, so that a step needs few parts of the table; see
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
