"""Ranking by counting compared with sorting: 1,000 images x 5,000 sentences, both directions.

OMP_NUM_THREADS=1 python -m bench.metrics
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vsa_ray.metrics import retrieval

NUM_IMAGES = 1000
SENTENCES_PER_IMAGE = 5
ROUNDS = 5

Ranks = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def by_counting(scores_BC: npt.NDArray[np.float32], image_of_C: npt.NDArray[np.int64]) -> Ranks:
    return (
        retrieval.annotation_ranks(scores_BC, image_of_C),
        retrieval.search_ranks(scores_BC, image_of_C),
    )


def by_sorting(scores_BC: npt.NDArray[np.float32], image_of_C: npt.NDArray[np.int64]) -> Ranks:
    """The usual implementation: an argsort per query, and a search for the true item in it."""
    annotation = [
        np.flatnonzero(image_of_C[np.argsort(-row_C)] == image)[0] + 1
        for image, row_C in enumerate(scores_BC)
    ]
    search = [
        np.flatnonzero(np.argsort(-column_B) == image)[0] + 1
        for image, column_B in zip(image_of_C, scores_BC.T, strict=True)
    ]
    return np.array(annotation), np.array(search)


def best_seconds(rank: Callable[[], Ranks]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        rank()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    image_of_C = np.repeat(np.arange(NUM_IMAGES), SENTENCES_PER_IMAGE)
    pairs = NUM_IMAGES * len(image_of_C)
    order = np.random.default_rng(0).permutation(pairs)  # distinct, and exact in float32
    scores_BC = order.reshape(NUM_IMAGES, -1).astype(np.float32)
    for counted, sorted_ in zip(
        by_counting(scores_BC, image_of_C), by_sorting(scores_BC, image_of_C), strict=True
    ):
        np.testing.assert_array_equal(counted, sorted_)

    counting = best_seconds(lambda: by_counting(scores_BC, image_of_C))
    sorting = best_seconds(lambda: by_sorting(scores_BC, image_of_C))
    print(f"{platform.machine()}, numpy {np.__version__}, best of {ROUNDS}, equal ranks")
    print(f"counting {1e3 * counting:7.1f} ms")
    print(f"argsort  {1e3 * sorting:7.1f} ms  ({sorting / counting:.0f}x)")


if __name__ == "__main__":
    main()
