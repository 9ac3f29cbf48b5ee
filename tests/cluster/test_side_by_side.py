"""Functions that run beside the driver, in processes of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from jobs.side_by_side import SideBySide, places
from vsa_ray import messages
from vsa_ray.errors import UserError, user_error_in

pytestmark = pytest.mark.cluster

Span = tuple[float, float, int]


def run_all(
    functions: dict[str, Callable[[], Any]], at_once: int = 2, near: str = "/tmp"
) -> list[Any]:
    async def gathered(beside: SideBySide) -> list[Any]:
        return await asyncio.gather(*(beside.run(*one) for one in functions.items()))

    with messages.open_queue() as log_queue:
        return asyncio.run(gathered(SideBySide(at_once, log_queue, near)))


def test_at_most_so_many_at_once() -> None:
    def span() -> Span:
        begun = time.time()
        time.sleep(1)
        return begun, time.time(), os.getpid()

    spans: list[Span] = run_all({str(number): span for number in range(5)})
    running = [sum(begun <= at < end for begun, end, _ in spans) for at, *_ in spans]
    assert max(running) == 2
    assert os.getpid() not in {process for *_, process in spans}
    assert max(spans) == spans[-1]


def test_they_share_the_cpus() -> None:
    threads = run_all({"a": torch.get_num_threads, "b": torch.get_num_threads}, at_once=64)
    assert threads == [1, 1]


def test_what_they_say_is_said_by_the_driver(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def talk() -> None:
        logging.getLogger("jobs").info("half of %d", 8)
        logging.getLogger("jobs").warning("odd")

    run_all({"a part": talk})
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "a part") in said
    assert said[-2:] == [("INFO", "[a part] half of 8"), ("WARNING", "[a part] odd")]


def test_what_says_it_may_outlive_its_queue(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with messages.open_queue() as log_queue:
        log_queue.put((logging.INFO, "first"))
        ray.kill(log_queue.actor, no_restart=False)
        log_queue.put((logging.INFO, "second"))
    assert "second" in caplog.messages


def test_beside_a_bucket_they_need_a_node_with_cpus() -> None:
    assert run_all({"a": lambda: 1}, near="s3://bucket/out") == [1]


def test_a_mistake_ends_all(tmp_path: Path) -> None:
    def slow() -> None:
        (tmp_path / "begun").touch()
        time.sleep(3)
        (tmp_path / "ended").touch()

    def mistaken() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        raise UserError("--seeds must be >= 1, got 0")

    with pytest.raises(UserError) as caught:
        run_all({"a": slow, "b": mistaken})
    assert str(user_error_in(caught.value)) == "--seeds must be >= 1, got 0"
    time.sleep(4)
    assert not (tmp_path / "ended").exists()


def test_one_whose_process_dies_runs_again(tmp_path: Path) -> None:
    def die_once() -> str:
        if (tmp_path / "died").exists():
            return "done"
        (tmp_path / "died").touch()
        os._exit(1)

    assert run_all({"a": die_once}) == ["done"]


@pytest.mark.parametrize(
    ("resources", "workers", "expected"),
    [
        ({"CPU": 2.0}, 1, 2),
        ({"CPU": 2.0}, 4, 1),
        ({"CPU": 64.0}, 1, 4),
        ({"CPU": 64.0, "GPU": 2.0}, 1, 2),
        ({}, 1, 1),
    ],
)
def test_places(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], workers: int, expected: int
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    assert places(workers) == expected
