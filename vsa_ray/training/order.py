"""Which images a step learns from: a function of the seed, the epoch and the step alone.

The images of an epoch are shuffled and cut into global batches, every image in exactly one. How
many workers there are, and how their images lie in blocks, changes nothing about that: a training
that goes on after a kill, with as many workers or with others, goes on with the same batches. (A
corpus too large to shuffle fully is dealt in as many parts as the settings have workers.)

    images     0 1 2 3 4 5 ...                 numbered as the dataset has them
    shuffled   4 1 | 0 5 | 3 2 | ...           global batches, of sizes that differ by one at most
    worker     0:4  1:1                        its slice of each
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vsa_ray.training.config import TrainConfig

Numbers = npt.NDArray[np.int64]

T = TypeVar("T")

CHUNK = 1_000
"""Images that stay neighbours in a corpus too large to shuffle fully, so that few blocks are read
at a time."""


def steps(images: int, config: TrainConfig) -> int:
    """Global batches of an epoch."""
    return -(-images // config.batch_size)


def global_batches(images: int, config: TrainConfig, epoch: int) -> list[Numbers]:
    """Numbers of the images of every step of an epoch, each image once.

    Batches differ by one image at most, and none is larger than config.batch_size. Images of one
    batch that are near one another in it lie near one another in the corpus: a worker's slice needs
    few blocks.
    """
    random = np.random.default_rng([config.seed, epoch])
    parts = config.num_workers if images > config.shuffle_images else 1
    order = _shuffled(images, config, random)
    # Part p's images are p, p + parts, ... of the epoch: every part is used up equally fast.
    part_of = np.arange(images) % parts
    dealt = np.empty(images, dtype=np.int64)
    dealt[np.argsort(part_of, kind="stable")] = order
    count = steps(images, config)
    cuts = [step * images // count for step in range(count + 1)]
    return [
        dealt[start:stop][np.argsort(part_of[start:stop], kind="stable")]
        for start, stop in pairwise(cuts)
    ]


def _shuffled(images: int, config: TrainConfig, random: np.random.Generator) -> Numbers:
    """All images if they are few; else chunks in any order, and images within windows of them."""
    if images <= config.shuffle_images:
        return random.permutation(images)
    chunks = random.permutation(-(-images // CHUNK))
    order = np.concatenate(
        [np.arange(i * CHUNK, min(images, (i + 1) * CHUNK)) for i in chunks], dtype=np.int64
    )
    for part in np.array_split(order, config.num_workers):  # views
        for start in range(0, len(part), config.shuffle_images):
            random.shuffle(part[start : start + config.shuffle_images])
    return order


def share(batch: Numbers, rank: int, workers: int) -> Numbers:
    """A worker's slice of a global batch; sizes differ by one at most."""
    return batch[rank * len(batch) // workers : (rank + 1) * len(batch) // workers]


HELD_BLOCKS = 32
"""Tables that a worker keeps at hand, 16 MiB each in the object store: small batches would ask for
most of them again and again."""


class Blocks:
    """The images of a training, in tables that are fetched as they are needed."""

    def __init__(self, rows: list[int], fetch: Callable[[int], pa.Table]) -> None:
        """`rows` has the size of each table, `fetch` gets one by its number."""
        self._fetch = fetch
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._held: dict[int, pa.Table] = {}

    def __len__(self) -> int:
        """Images."""
        return int(self._starts[-1])

    def take(self, numbers: Numbers) -> pa.Table:
        """These images, in the order of their numbers."""
        numbers = np.sort(numbers)
        block_of = np.searchsorted(self._starts, numbers, side="right") - 1
        self._hold(np.unique(block_of).tolist())
        rows = (numbers - self._starts[block_of]).tolist()
        # Slices are views. Table.take would copy nested lists number by number, and of a table in
        # many chunks all of it first: half the time of a training was spent there.
        return pa.concat_tables(
            self._held[i].slice(row, 1) for i, row in zip(block_of.tolist(), rows, strict=True)
        )

    def _hold(self, needed: list[int]) -> None:
        """Have these tables, and of the others those that were needed last."""
        held = self._held
        for i in needed:
            held[i] = held.pop(i) if i in held else self._fetch(i)
        for i in list(held)[: max(0, len(held) - max(HELD_BLOCKS, len(needed)))]:
            del held[i]


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by a thread while the caller works on the one before."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
