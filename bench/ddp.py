"""Steps per second of two single-threaded workers, compared with one.

    python -m bench.ddp           two minutes, on a machine with two idle CPUs

Both have the same global batch, of 100 images and of 256, and run the whole step of alignment
training (see train_step.py), in real processes over gloo. One worker has all images; two have half
each, and exchange words, scores of true pairs and gradients. Rounds alternate; each is timed
between barriers, by the wall clock. The communication of two workers is also timed alone. The goal
is 1.7.

The upper bound is two workers that do not communicate: each makes up the words of the other's half.
They do the same arithmetic, share the machine's caches and memory, and repeat the update.

CPU milliseconds are those of one worker with its communication thread. Their ratio excludes the
time that workers wait for each other, so it is meaningful on a busy machine too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import pyarrow as pa
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.machine import load, machine
from bench.train_step import images_of, make_task
from vsa_ray.alignment import (
    AlignmentConfig,
    AlignmentModel,
    image_sentence_scores,
    ranking_loss,
)
from vsa_ray.batches import Ragged
from vsa_ray.training import gathering
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.config import TrainConfig, make_optimizer
from vsa_ray.training.step import Monitor, train_step
from vsa_ray.training.tasks import Pair
from vsa_ray.training.worker import TaskLoss

BATCHES = (100, 256)
ROUNDS, STEPS = 6, 4

Times = dict[str, list[tuple[float, float]]]
"""Seconds per step, or per message, in each round: wall clock and CPU."""


ROLES = ("alone", "together", "together", "apart", "apart")
"""Role of each process."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """State shared by all processes."""

    images: int
    folder: str
    barrier: Barrier
    times: Queue[Times]


class LossApart(nn.Module):
    """The loss of one of two workers, which makes up what the other would have sent."""

    def __init__(self, task: AlignmentTask, model: AlignmentModel, others: Pair) -> None:
        super().__init__()
        self.task, self.model = task, model
        self.lengths = others.words.lengths
        self.others_WD = torch.randn(len(others.words.rows), task.config.embed_dim)

    def forward(self, batch: Pair) -> Tensor:
        regions_PD = self.model.encode_regions(batch.features.rows)
        words_WD = self.model.encode_words(batch.words.rows, batch.words.lengths)
        scores_BC = image_sentence_scores(
            regions_PD,
            batch.features.lengths,
            torch.cat([words_WD, self.others_WD]),
            torch.cat([batch.words.lengths, self.lengths]),
            score=self.task.config.score,
        )
        return ranking_loss(scores_BC, 0, self.task.config)


class Worker:
    def __init__(self, role: str, images: int) -> None:
        """`images` is the size of the global batch, of which it takes its part."""
        torch.manual_seed(0)
        self.config, self.task = TrainConfig(), make_task(AlignmentConfig())
        self.model = self.task.build().train()
        self.loss_of: nn.Module = TaskLoss(self.task, self.model)
        all_images: pa.Table = images_of(self.task.vocabulary, images)
        own = images if role == "alone" else images // 2
        self.images = all_images.slice(gathering.rank() * own, own)
        if role == "together":
            self.loss_of = DistributedDataParallel(self.loss_of, **gathering.AVERAGING)
        elif role == "apart":
            others = self.task.batch(all_images.slice(own), epoch=0, seed=0)
            self.loss_of = LossApart(self.task, self.model, others)
        self.optimizer = make_optimizer(self.model, self.config)
        self.monitor = Monitor(self.model, torch.device("cpu"))
        self.words = len(self.task.batch(self.images, epoch=0, seed=0).words.rows)

    def step(self, epoch: int) -> None:
        batch = self.task.batch(self.images, epoch=epoch, seed=0)
        workers = gathering.num_workers()
        train_step(self.loss_of, self.optimizer, batch, self.config, workers, self.monitor)

    def messages(self) -> dict[str, Callable[[], object]]:
        """The communication of a step of two workers, and the update, which both repeat."""
        gradients = torch.zeros(sum(p.numel() for p in self.model.parameters()))
        words_WD = torch.zeros(self.words, self.task.config.embed_dim, requires_grad=True)
        lengths_C = torch.ones(self.words, dtype=torch.int64)
        return {
            "all-reduce of gradients": lambda: dist.all_reduce(gradients),
            "gather words, and back": lambda: (
                _exchanged(Ragged(words_WD, lengths_C)).sum().backward()
            ),
            "gather a number a sentence": lambda: gathering.gather(
                torch.zeros(2 * len(self.images))
            ),
            "update, made by both": self.optimizer.step,
        }


def _exchanged(own: Ragged) -> Tensor:
    exchange = gathering.Exchange(own.lengths)
    exchange.send(own.rows)
    return exchange.receive()[0].rows


def work(member: int, meeting: Meeting) -> None:
    torch.set_num_threads(1)
    role = ROLES[member]
    if role == "together":
        meet = f"file://{meeting.folder}/meet"
        dist.init_process_group("gloo", init_method=meet, rank=member - 1, world_size=2)
    worker = Worker(role, meeting.images)
    times: Times = {role: []}
    worker.step(0)
    for round_ in range(ROUNDS):
        for turn in sorted({*ROLES}):
            meeting.barrier.wait()
            if turn == role:
                times[role].append(seconds(lambda r=round_: worker.step(r)))  # type: ignore[misc]
    meeting.barrier.wait()
    if role == "together":
        for name, message in worker.messages().items():
            times[name] = [seconds(message) for _ in range(ROUNDS)]
        dist.destroy_process_group()
    meeting.times.put(times)
    meeting.barrier.wait()


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        run()
    return (time.perf_counter() - start) / STEPS, (time.process_time() - cpu) / STEPS


def report(alone: list[tuple[float, float]], two: list[tuple[float, float]], name: str) -> None:
    ratios = [a / b for (a, _), (b, _) in zip(alone, two, strict=True)]
    (wall, cpu), (lone_wall, lone_cpu) = best_of(two), best_of(alone)
    print(
        f"  {name:13} {1e3 * wall:7.1f} ms a step, {1 / wall:.2f} steps/s; CPU {1e3 * cpu:.1f}; "
        f"ratio {lone_wall / wall:.2f} of the best rounds, {statistics.median(ratios):.2f} in the "
        f"median of {ROUNDS} ({min(ratios):.2f} to {max(ratios):.2f}); of CPU {lone_cpu / cpu:.2f}"
    )


def best_of(times: list[tuple[float, float]]) -> tuple[float, float]:
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def compare(images: int) -> None:
    """One global batch, by one worker and by two."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = Meeting(images, folder, context.Barrier(len(ROLES)), context.Queue())
        workers = [
            context.Process(target=work, args=(member, meeting), daemon=True)
            for member in range(len(ROLES))
        ]
        for process in workers:
            process.start()
        times: Times = {}
        for _ in workers:
            times |= meeting.times.get()
        for process in workers:
            process.join()
    print(f"{images} images")
    alone = times.pop("alone")
    report(alone, alone, "one worker")
    report(alone, times.pop("together"), "two workers")
    report(alone, times.pop("apart"), "two, apart")
    print("  of two workers, each with nothing beside it:")
    for name, own in times.items():
        wall, cpu = best_of(own)
        print(f"    {name:28} {1e3 * wall:6.1f} ms; CPU {1e3 * cpu:.1f}")
    print(f"  {load()} at the end", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    for images in BATCHES:
        compare(images)


if __name__ == "__main__":
    main()
