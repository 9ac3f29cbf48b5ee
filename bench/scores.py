"""Eq. 8 and its losses, as multiples of one float32 product of all regions with all words.

    python -m bench.scores               two batches, on one thread and on two: some 2 minutes
    python -m bench.scores large         2,048 images at once, and evaluation: some 2 minutes

Forward and backward of scores and loss, from random vectors for which about two thirds of the
hinges are positive; in the softmax every pair counts. Rounds alternate and the best one counts; one
thread is measured in CPU seconds, which a busy machine hardly affects; two threads need an idle
one. Goals on one thread: 1.4 and 1.3 for the sum of hinges in float32, 0.8 and 0.7 with a bfloat16
forward on a processor that supports it (AVX512-BF16, AMX; others convert every number, and are
several times slower than in float32); 2 GiB beyond the inputs for the large batch, and 1.25 for
evaluation.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.machine import machine
from vsa_ray.alignment import AlignmentConfig, image_sentence_scores, ranking_loss

TURNS = 5
HINGES = AlignmentConfig(loss="sum_of_hinges")
SOFTMAX = AlignmentConfig(loss="softmax", temperature=100.0)  # of sums of raw products


@dataclass(frozen=True, slots=True)
class Batch:
    regions_PD: Tensor
    num_regions_B: Tensor
    words_WD: Tensor
    lengths_C: Tensor

    @classmethod
    def random(cls, images: int, regions: int, sentences: int, words: int, dim: int) -> Batch:
        """Random vectors; sentence lengths differ by at most one."""
        lengths_C = torch.full((sentences,), words // sentences)
        lengths_C[: words % sentences] += 1
        return cls(
            torch.randn(images * regions, dim),
            torch.full((images,), regions),
            torch.randn(words, dim).relu_(),
            lengths_C,
        )

    def scores(self) -> Tensor:
        return image_sentence_scores(
            self.regions_PD, self.num_regions_B, self.words_WD, self.lengths_C
        )

    def dense_scores(self) -> Tensor:
        """The same by plain autograd, for images with equal numbers of regions."""
        sims_BRW = (self.regions_PD @ self.words_WD.T).unflatten(0, (len(self.num_regions_B), -1))
        sentence_W = torch.arange(len(self.lengths_C)).repeat_interleave(self.lengths_C)
        scores_BC = torch.zeros(len(self.num_regions_B), len(self.lengths_C))
        return scores_BC.index_add(1, sentence_W, sims_BRW.amax(1))

    def step(self, scores: Callable[[], Tensor], config: AlignmentConfig) -> None:
        for vectors in (self.regions_PD, self.words_WD):
            vectors.requires_grad_().grad = None
        ranking_loss(scores(), 0, config).backward()

    def in_bfloat16(self) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.scores()


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds on one thread; wall-clock on several, whose CPU time would include waiting."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


@torch.no_grad()
def product(batch: Batch, out_PW: Tensor) -> None:
    torch.mm(batch.regions_PD, batch.words_WD.T, out=out_PW)


def compare(batch: Batch) -> None:
    out_PW = torch.empty(len(batch.regions_PD), len(batch.words_WD))
    work: dict[str, Callable[[], None]] = {
        "one product": lambda: product(batch, out_PW),
        "sum of hinges": lambda: batch.step(batch.scores, HINGES),
        "softmax": lambda: batch.step(batch.scores, SOFTMAX),
        "sum of hinges, bfloat16": lambda: batch.step(batch.in_bfloat16, HINGES),
        "sum of hinges, dense autograd": lambda: batch.step(batch.dense_scores, HINGES),
    }
    turns = [[seconds(run) for run in work.values()] for _ in range(TURNS)]
    best = [min(times) for times in zip(*turns, strict=True)]
    for name, time_ in zip(work, best, strict=True):
        print(f"  {name:30} {1e3 * time_:7.1f} ms   {time_ / best[0]:5.2f}")


def small() -> None:
    for images, regions, words, dim in ((100, 20, 1211, 1000), (128, 36, 1584, 1024)):
        batch = Batch.random(images, regions, images, words, dim)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            print(
                f"{images} images x {regions} regions, {words} words, D={dim}, {threads} thread(s)"
            )
            compare(batch)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def large() -> None:
    torch.set_num_threads(1)
    batch = Batch.random(2048, 20, 2048, 24_800, 1000)
    before = resident_bytes()
    took = seconds(lambda: batch.step(batch.scores, HINGES))
    beyond = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(f"2,048 images, 24,800 words: {took:.1f} s, {beyond / 2**30:.2f} GiB beyond the inputs")

    # 5,000 sentences, a thousand at a time: the whole product would take 4 GB.
    batch = Batch.random(1000, 20, 1000, 10_400, 1000)
    out_PW = torch.empty(len(batch.regions_PD), len(batch.words_WD))
    times = [(seconds(lambda: product(batch, out_PW)), seconds(batch.scores)) for _ in range(5)]
    plain, scored = (sum(column) for column in zip(*times, strict=True))
    print(f"1,000 x 5,000: {scored:.1f} s, products {plain:.1f} s, ratio {scored / plain:.2f}")
    print(f"5,000 x 25,000, 25 times as many pairs: {25 * scored / 60:.0f} minutes, not run")


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(machine())
    if sys.argv[1:] == ["large"]:
        large()
    else:
        small()


if __name__ == "__main__":
    main()
