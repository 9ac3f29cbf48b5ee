"""What shuffling within windows costs compared with a full shuffle: R@10 on dev images.

    python -m bench.shuffle           some 2 minutes

The worst case for shuffling within windows: 40,000 images sorted by topic, a hundred per topic, so
in batches of neighbours many negative sentences have the right topic. An image has objects, two
thirds of them from its topic; a region shows an object, a sentence names objects. Several orders of
the same images, with the same number of steps, and several seeds:

    full       all 40,000 images shuffled
    training   as in training: chunks of 1,000 neighbours shuffled, and images within windows of
               20,000 (training/order.py)
    buffer     the corpus from start to end, with images shuffled within windows of 20,000
    sorted     not shuffled

The goal is a difference of at most one point between full and training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bench.machine import machine
from vsa_ray import metrics
from vsa_ray.alignment import (
    AlignmentConfig,
    AlignmentModel,
    image_sentence_scores,
    ranking_loss,
)
from vsa_ray.training import order
from vsa_ray.training.config import TrainConfig, learning_rate, make_optimizer
from vsa_ray.training.step import train_step

IMAGES, DEV_IMAGES, TOPICS, OBJECTS = 40_000, 1_000, 400, 1_000
REGIONS, WORDS, FEATURE_DIM = 5, 6, 32
MODEL = AlignmentConfig(embed_dim=64, hidden_dim=32, word_dim=32, dropout=0.0)
TRAIN = TrainConfig(epochs=2, learning_rate=2e-3)
SEEDS = 3

Numbers = npt.NDArray[np.int64]
Corpus = tuple[Tensor, Tensor]
"""Features (B, R, F), and ids of words (B, T)."""


def corpora() -> tuple[Corpus, Corpus]:
    """Train images sorted by topic, and dev images of random topics."""
    rng = np.random.default_rng(0)
    looks_OF = rng.standard_normal((OBJECTS, FEATURE_DIM)).astype(np.float32)
    own = rng.integers(0, OBJECTS, (TOPICS, 8))

    def draw(topic_B: Numbers) -> Corpus:
        shape = (len(topic_B), REGIONS)
        of_topic = own[topic_B[:, None], rng.integers(0, own.shape[1], shape)]
        objects = np.where(rng.random(shape) < 2 / 3, of_topic, rng.integers(0, OBJECTS, shape))
        noise = rng.standard_normal((*shape, FEATURE_DIM)).astype(np.float32)
        said = np.take_along_axis(objects, rng.integers(0, REGIONS, (len(topic_B), WORDS)), 1)
        return torch.from_numpy(looks_OF[objects] + noise), torch.from_numpy(said + 1)

    train = np.sort(rng.integers(0, TOPICS, IMAGES))
    return draw(train), draw(rng.integers(0, TOPICS, DEV_IMAGES))


def full(config: TrainConfig, epoch: int) -> list[Numbers]:
    return order.global_batches(IMAGES, replace(config, shuffle_images=IMAGES), epoch)


def training(config: TrainConfig, epoch: int) -> list[Numbers]:
    return order.global_batches(IMAGES, config, epoch)


def buffer(config: TrainConfig, epoch: int) -> list[Numbers]:
    rng, images = np.random.default_rng([config.seed, epoch]), np.arange(IMAGES)
    for start in range(0, IMAGES, config.shuffle_images):
        rng.shuffle(images[start : start + config.shuffle_images])
    return np.split(images, IMAGES // config.batch_size)


def as_it_is(config: TrainConfig, epoch: int) -> list[Numbers]:
    return np.split(np.arange(IMAGES), IMAGES // config.batch_size)


ORDERS: dict[str, Callable[[TrainConfig, int], list[Numbers]]] = {
    "full": full,
    "training": training,
    "buffer": buffer,
    "sorted": as_it_is,
}


class Loss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = AlignmentModel(MODEL, feature_dim=FEATURE_DIM, vocabulary_size=OBJECTS + 1)

    def scores(self, corpus: Corpus) -> Tensor:
        features_BRF, ids_BT = corpus
        num_regions_B = torch.full((len(features_BRF),), REGIONS)
        lengths_B = torch.full((len(ids_BT),), WORDS)
        vectors = self.model(features_BRF.flatten(0, 1), ids_BT.flatten(), lengths_B)
        return image_sentence_scores(vectors[0], num_regions_B, vectors[1], lengths_B)

    def forward(self, corpus: Corpus) -> Tensor:
        return ranking_loss(self.scores(corpus), 0, MODEL)


def recall(train: Corpus, dev: Corpus, config: TrainConfig, name: str) -> float:
    """R@10 in percent after training, averaged over both directions."""
    torch.manual_seed(config.seed)
    loss = Loss().train()
    optimizer = make_optimizer(loss, config)
    steps = itertools.count(1)
    for epoch in range(config.epochs):
        for batch in batches(train, ORDERS[name](config, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, epoch, next(steps))
            train_step(loss, optimizer, batch, config)
    with torch.inference_mode():
        scores_BC = loss.eval().scores(dev).numpy()
    image_of_C = np.arange(DEV_IMAGES)
    found = (
        metrics.image_annotation(scores_BC, image_of_C),
        metrics.image_search(scores_BC, image_of_C),
    )
    return float(np.mean([ranks.r10 for ranks in found]))


def batches(train: Corpus, numbers: list[Numbers]) -> Iterator[Corpus]:
    for own in map(torch.from_numpy, numbers):
        yield train[0][own], train[1][own]


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    train, dev = corpora()
    found: dict[str, list[float]] = {name: [] for name in ORDERS}
    for seed in range(SEEDS):
        for name, recalls in found.items():
            recalls.append(recall(train, dev, replace(TRAIN, seed=seed), name))
    print(
        f"  R@10 of {DEV_IMAGES:,} dev images in percent, {TRAIN.epochs} epochs of {IMAGES:,} "
        f"images, {SEEDS} seeds"
    )
    for name, recalls in found.items():
        differences = np.subtract(recalls, found["full"])
        each = "  ".join(f"{r:5.1f}" for r in recalls)
        print(f"  {name:10} {np.mean(recalls):5.1f}  ({each})  {differences.mean():+.1f}")


if __name__ == "__main__":
    main()
