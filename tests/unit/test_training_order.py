"""Which images a step learns from: every one once an epoch, whoever learns it."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest

from vsa_ray.training import order
from vsa_ray.training.config import TrainConfig


def config(**settings: int) -> TrainConfig:
    return TrainConfig(**{"batch_size": 10, **settings})


@pytest.mark.parametrize("images", [2, 9, 10, 11, 40, 41, 59, 60, 5_003])
@pytest.mark.parametrize("workers", [1, 3, 4])
@pytest.mark.parametrize("shuffle", [16, 4_000, 10_000])
def test_every_image_is_in_one_batch(images: int, workers: int, shuffle: int) -> None:
    settings = config(num_workers=workers, shuffle_images=shuffle)
    batches = order.global_batches(images, settings, epoch=3)
    assert len(batches) == order.steps(images, settings) == -(-images // 10)
    assert sorted(np.concatenate(batches).tolist()) == list(range(images))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= 10
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("images", [8, 21, 103])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_workers_share_a_batch_evenly(images: int, workers: int) -> None:
    for batch in order.global_batches(images, config(num_workers=4), epoch=0):
        shares = [order.share(batch, rank, workers) for rank in range(workers)]
        assert np.concatenate(shares).tolist() == batch.tolist()
        sizes = [len(share) for share in shares]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1


def same(one: list[order.Numbers], other: list[order.Numbers]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shuffle", [16, 4_000])
def test_the_order_hangs_on_seed_and_epoch(shuffle: int) -> None:
    settings = config(shuffle_images=shuffle, num_workers=2)
    first = order.global_batches(3_000, settings, epoch=0)
    assert same(first, order.global_batches(3_000, settings, epoch=0))
    assert not same(first, order.global_batches(3_000, settings, epoch=1))
    other = config(shuffle_images=shuffle, num_workers=2, seed=1)
    assert not same(first, order.global_batches(3_000, other, epoch=0))


def test_the_few_images_of_a_small_corpus_meet_all_others() -> None:
    settings = config(num_workers=2)
    together = np.zeros((20, 20), dtype=int)
    for epoch in range(200):
        for batch in order.global_batches(20, settings, epoch):
            together[np.ix_(batch, batch)] += 1
    apart = together[~np.eye(20, dtype=bool)] / 200
    assert apart.min() > 0.3  # expected: 9 of 19
    assert apart.max() < 0.65


def test_a_worker_of_a_large_corpus_reads_few_blocks_at_a_time() -> None:
    settings = config(num_workers=4, batch_size=100, shuffle_images=500)
    batches = order.global_batches(100_000, settings, epoch=0)
    for rank in range(4):
        for start in range(0, len(batches), 20):  # 500 images a worker
            window = [order.share(b, rank, 4) for b in batches[start : start + 20]]
            chunks = {int(i) // order.CHUNK for i in np.concatenate(window)}
            assert len(chunks) <= 4


def table(start: int, stop: int) -> pa.Table:
    return pa.table({"image": list(range(start, stop))})


def test_images_are_taken_from_the_blocks_that_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = [0, 3, 3, 10, 11]
    fetched: list[int] = []

    def fetch(number: int) -> pa.Table:
        fetched.append(number)
        return table(bounds[number], bounds[number + 1])

    monkeypatch.setattr(order, "HELD_BLOCKS", 2)
    blocks = order.Blocks([3, 0, 7, 1], fetch)
    assert len(blocks) == 11
    assert blocks.take(np.array([9, 0, 3, 2]))["image"].to_pylist() == [0, 2, 3, 9]
    assert fetched == [0, 2]
    assert blocks.take(np.array([10, 4]))["image"].to_pylist() == [4, 10]
    assert fetched == [0, 2, 3]  # 2 was held
    blocks.take(np.array([4]))
    blocks.take(np.array([10]))
    assert fetched == [0, 2, 3]  # both were
    blocks.take(np.array([0]))
    assert fetched == [0, 2, 3, 0]  # 0 was let go
    assert len(blocks.take(np.arange(11))) == 11  # more than are held


def test_items_are_made_ahead() -> None:
    made: list[int] = []
    second = threading.Event()

    def make() -> object:
        for number in range(3):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    found = []
    for item in order.prefetched(iter(make())):
        if not found:
            assert second.wait(10)  # while the caller has the first
        found.append(item)
    assert found == made == [0, 1, 2]


def test_what_fails_ahead_fails_for_the_caller() -> None:
    def make() -> object:
        yield 1
        raise OSError("no such block")

    items = order.prefetched(iter(make()))
    assert next(items) == 1
    with pytest.raises(OSError, match="no such block"):
        next(items)
