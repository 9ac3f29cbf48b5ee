"""Which images each step learns from: a function of only the seed, the epoch and the step.

The images of an epoch are shuffled and cut into global batches, with every image in exactly one.
Neither the number of workers nor the distribution of images over blocks affects this: a resumed
training, with the same or another number of workers, continues with the same batches. (A corpus too
large to shuffle fully is dealt in as many parts as num_workers.)

    images     0 1 2 3 4 5 ...                 numbered in the order of the dataset
    shuffled   4 1 | 0 5 | 3 2 | ...           global batches, with sizes that differ by at most one
    worker     0:4  1:1                        each worker's slice of the first batch
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
"""Images that stay together in a corpus too large to shuffle fully, so that few blocks are read at
a time."""


def steps(images: int, config: TrainConfig) -> int:
    """Number of global batches of an epoch."""
    return -(-images // config.batch_size)


def global_batches(images: int, config: TrainConfig, epoch: int) -> list[Numbers]:
    """Image numbers for every step of an epoch, each image once.

    Batch sizes differ by at most one and do not exceed config.batch_size. Images next to each other
    in a batch are close in the corpus, so a worker's slice needs few blocks.
    """
    random = np.random.default_rng([config.seed, epoch])
    parts = config.num_workers if images > config.shuffle_images else 1
    order = _shuffled(images, config, random)
    # Part p provides images p, p + parts, ... of the epoch, so all parts are used equally fast.
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
    """A full shuffle if there are few images; else shuffled chunks, and images within windows."""
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
    """A worker's slice of a global batch; sizes differ by at most one."""
    return batch[rank * len(batch) // workers : (rank + 1) * len(batch) // workers]


HELD_BLOCKS = 32
"""Tables that a worker caches, 16 MiB each in the object store: small batches would fetch most of
them again and again."""


class Blocks:
    """The images of a training, in tables that are fetched on demand."""

    def __init__(self, rows: list[int], fetch: Callable[[int], pa.Table]) -> None:
        """`rows` is the size of each table, `fetch` gets a table by its number."""
        self._fetch = fetch
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._held: dict[int, pa.Table] = {}

    def __len__(self) -> int:
        """Number of images."""
        return int(self._starts[-1])

    def take(self, numbers: Numbers) -> pa.Table:
        """These images, in the order of their numbers."""
        numbers = np.sort(numbers)
        block_of = np.searchsorted(self._starts, numbers, side="right") - 1
        self._hold(np.unique(block_of).tolist())
        rows = (numbers - self._starts[block_of]).tolist()
        # Slices are views. Table.take would copy nested lists element by element, after combining
        # the chunks of the whole table: half of the training time was spent there.
        return pa.concat_tables(
            self._held[i].slice(row, 1) for i, row in zip(block_of.tolist(), rows, strict=True)
        )

    def _hold(self, needed: list[int]) -> None:
        """Cache these tables, and the most recently used of the others."""
        held = self._held
        for i in needed:
            held[i] = held.pop(i) if i in held else self._fetch(i)
        for i in list(held)[: max(0, len(held) - max(HELD_BLOCKS, len(needed)))]:
            del held[i]


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same items, each prefetched by a thread while the caller works on the previous one."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
