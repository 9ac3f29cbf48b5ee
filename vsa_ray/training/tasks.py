"""What a training needs to know of what it trains. Independent of Ray.

A task builds its model, makes batches from images with their texts (texts.py), defines the loss of
a batch, and scores the model on the dev split. `loop.train` does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from vsa_ray.alignment import AlignmentModel, Detected
from vsa_ray.batches import Ragged
from vsa_ray.mrnn import MultimodalRNN
from vsa_ray.vocabulary import Vocabulary

Metrics = dict[str, float]

Model = AlignmentModel | MultimodalRNN

SPREAD = "dev/spread"
"""The metric that is 0 if the model's outputs are the same for all dev images: the deviation of the
scores, relative to the largest, or the number of distinct captions minus one."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Features and words that belong together, on one device."""

    features: Ragged
    words: Ragged

    detected: Detected | None = None
    """For distillation: what the detector knows about these regions and words."""

    def to(self, device: torch.device) -> Pair:
        detected = self.detected and self.detected.to(device)
        return Pair(self.features.to(device), self.words.to(device), detected)


class Task(Protocol):
    """What a training learns: model, batches, loss and dev score. Plain data, sent to the
    workers."""

    score: ClassVar[str]
    """The dev metric that says which epoch was best; higher is better."""

    @property
    def vocabulary(self) -> Vocabulary: ...
    def build(self) -> Model: ...
    def batch(self, images: pa.Table, *, epoch: int, seed: int) -> Pair: ...
    def loss(self, model: Any, batch: Pair) -> Tensor: ...
    def dev(self) -> Any:
        """What `evaluate` needs of the dev split. Read once: among the rows of a large corpus it
        may take longer to find than an epoch to learn."""
        ...

    def evaluate(self, model: Any, dev: Any) -> Metrics: ...

    def collapsed_loss(self, images: float) -> float | None:
        """The loss of a collapsed model on a global batch of this many images; None if the loss
        does not show it."""
        ...

    def advice(self) -> list[str]:
        """Settings to try for a collapsed model, other than TrainConfig's."""
        ...
