"""Where the time of a step of alignment training goes, on one thread.

    python -m bench.train_step           some 20 seconds

100 images of 20 regions, float16 features of width 1,280 from a table as in training, a sentence of
some 11 words each, D=1000, H=512, word vectors of width 300.

The floor is the arithmetic that no implementation of Eqs. 1-9 can avoid, timed in the same rounds:
each matrix product once, forward and backward, written into preallocated memory (the recurrence as
one product over all words), reading and writing each layer's activations once each for ReLU and
dropout, and each weight once for AdamW. Not in the floor: the words' maxima over regions, random
numbers, gathering of rows, the backward pass of the scores (which is sums of rows, not products),
building tensors, and Python. The goal is that at most 20 % of the time is not in the floor.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from bench.machine import machine
from vsa_ray import schema
from vsa_ray.alignment import (
    AlignmentConfig,
    AlignmentModel,
    image_sentence_scores,
    ranking_loss,
)
from vsa_ray.texts import TEXTS
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.config import TrainConfig, make_optimizer
from vsa_ray.training.moments import Moments
from vsa_ray.vocabulary import Vocabulary

IMAGES, REGIONS, FEATURE_DIM, VOCABULARY_SIZE = 100, 20, 1280, 2538
TURNS = 12

Seconds = dict[str, float]


def make_task(config: AlignmentConfig) -> AlignmentTask:
    words = tuple(f"word{i}" for i in range(VOCABULARY_SIZE - 1))
    return AlignmentTask(
        config=config,
        vocabulary=Vocabulary(words, (5,) * len(words), 30_000),
        moments=Moments(
            mean_F=np.full(FEATURE_DIM, 0.4, np.float32),
            scale_F=np.full(FEATURE_DIM, 0.6, np.float32),
        ),
        regions="",
        sentences="",
    )


def images_of(vocabulary: Vocabulary, images: int) -> pa.Table:
    """Images as training reads them: features as after a ReLU, words with Zipf's distribution."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1.0, len(vocabulary.words) + 1)
    cumulative = np.cumsum(shares / shares.sum())
    features = [
        np.abs(rng.standard_normal((REGIONS, FEATURE_DIM))).astype(np.float16)
        for _ in range(images)
    ]
    texts = []
    for _ in range(images):
        lengths = np.clip(rng.normal(11, 3.5, 5), 3, 30).astype(int)
        drawn = [np.searchsorted(cumulative, rng.random(n) * cumulative[-1]) for n in lengths]
        texts.append([[vocabulary.words[i] for i in ids] for ids in drawn])
    return pa.table(
        {
            "image_id": [f"{image}.jpg" for image in range(images)],
            "features": schema.nested(features, pa.float16()),
            "texts": pa.array(texts, TEXTS.field("texts").type),
        }
    )


class Clock:
    """CPU seconds between calls, which a busy machine hardly affects."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class Step:
    """The training step, split into parts that can be timed."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.task = make_task(AlignmentConfig())
        self.images = images_of(self.task.vocabulary, IMAGES)
        self.config = TrainConfig()
        self.model = self.task.build().train()
        self.optimizer = make_optimizer(self.model, self.config)
        self.words = 0

    def run(self, epoch: int) -> Seconds:
        clock = Clock()
        batch = self.task.batch(self.images, epoch=epoch, seed=0)
        self.words = len(batch.words.rows)
        clock.lap("data")
        regions_PD = self.model.encode_regions(batch.features.rows)
        clock.lap("model: regions")
        words_WD = self.model.encode_words(batch.words.rows, batch.words.lengths)
        clock.lap("model: words")
        scores_BC = image_sentence_scores(
            regions_PD, batch.features.lengths, words_WD, batch.words.lengths
        )
        clock.lap("loss: scores")
        loss = ranking_loss(scores_BC, 0, self.task.config)
        clock.lap("loss: ranking")
        self.optimizer.zero_grad(set_to_none=True)
        grads = torch.autograd.grad(loss, (regions_PD, words_WD))
        clock.lap("backward: loss")
        torch.autograd.backward((regions_PD, words_WD), grads)
        clock.lap("backward: model")
        nn.utils.clip_grad_value_(self.model.parameters(), self.config.max_gradient)
        clock.lap("optimiser: clipping")
        self.optimizer.step()
        clock.lap("optimiser: update")
        return clock.seconds


class Floor:
    """The unavoidable arithmetic of a step; see the module's docstring."""

    def __init__(self, model: AlignmentModel, words: int) -> None:
        self.config, regions = model.config, IMAGES * REGIONS
        dim, hidden, word_dim = (
            self.config.embed_dim,
            self.config.hidden_dim,
            self.config.word_dim,
        )
        features_PF, regions_PD = torch.randn(regions, FEATURE_DIM), torch.randn(regions, dim)
        words_WD, words_WH = torch.randn(words, dim), torch.randn(words, hidden)
        words_WI = torch.randn(words, word_dim)
        to_FD, to_ID = torch.randn(FEATURE_DIM, dim), torch.randn(word_dim, hidden)
        to_HH, to_HD = torch.randn(hidden, hidden), torch.randn(hidden, dim)
        # For a layer y = x W: y, and in the backward pass the gradients of W and x.
        layers = {
            "regions": [(features_PF, to_FD), (features_PF.T, regions_PD)],
            "words": [
                *layer(words_WI, to_ID, words_WH),
                *layer(words_WH, to_HH, words_WH) * 2,
                *layer(words_WH, to_HD, words_WD),
            ],
            "scores": [(regions_PD, words_WD.T)],
        }
        self.products = [
            (a, b, torch.empty(a.shape[0], b.shape[1]))
            for pairs in layers.values()
            for a, b in pairs
        ]
        # float16 to float32, dropout; and of words, in both directions where there are two.
        self.elementwise = [features_PF] * 2 + [words_WI, words_WH, words_WD] * 4 + [words_WH] * 4
        self.parameters = [torch.randn_like(p) for p in model.parameters()]
        self.out = torch.empty(max(x.numel() for x in self.elementwise))

    def run(self) -> Seconds:
        clock = Clock()
        for a, b, out in self.products:
            torch.mm(a, b, out=out)
        clock.lap("products")
        for x in self.elementwise:
            torch.mul(x.view(-1), 2.0, out=self.out[: x.numel()])
        for parameter in self.parameters:  # AdamW reads four numbers per weight and writes three
            for _ in range(3):
                parameter.mul_(1.0)
        clock.lap("elementwise")
        return clock.seconds


def layer(x: Tensor, weight: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(x, weight), (x.T, y), (y, weight.T)]


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    step = Step()
    step.run(0)
    floor = Floor(step.model, step.words)
    turns = [(step.run(turn), floor.run()) for turn in range(TURNS)]
    ours, least = ({k: min(t[side][k] for t in turns) for k in turns[0][side]} for side in (0, 1))
    for name, seconds in {**ours, **{f"floor: {k}": v for k, v in least.items()}}.items():
        print(f"  {name:22} {1e3 * seconds:7.1f} ms")
    # Sums over one round, not of each part's best.
    total = min(sum(run.values()) for run, _ in turns)
    bare = min(sum(run.values()) for _, run in turns)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"  whole step {1e3 * total:.1f} ms, floor {1e3 * bare:.1f} ms: "
        f"{1 - bare / total:.1%} is not arithmetic (products alone: "
        f"{1 - least['products'] / total:.1%})\n"
        f"  {IMAGES / total:.0f} images and {step.words / total:.0f} words a second, "
        f"peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
