"""What every worker of a training does. Independent of Ray: loop.py provides its environment.

The position of a training, an epoch and a step, determines which images come next (order.py) and
what dropout drops. So a checkpoint holds the model, the optimizer's state and that position, and a
training resumed from one ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vsa_ray import checkpoints
from vsa_ray.checkpoints import Progress
from vsa_ray.storage import StorageError
from vsa_ray.tracking import Run
from vsa_ray.training import alarms, gathering, order
from vsa_ray.training.config import TrainConfig, learning_rate, make_optimizer
from vsa_ray.training.step import Monitor, train_step
from vsa_ray.training.tasks import SPREAD, Metrics, Model, Pair, Task

GPU_STEPS = 20
"""Steps between two synchronisations (looks) on a GPU, which stall it."""

NOTICE_SECONDS = 5.0
"""Time between two checks whether a node is about to be preempted."""

SHOW_SECONDS = 15.0
"""Time between two progress lines within an epoch."""


class Runtime(Protocol):
    """The environment of a worker. All workers call `preempted` and `save` equally often."""

    device: torch.device

    def prepare(self, loss: nn.Module) -> nn.Module:
        """Move a module to the device, and average its gradients over workers."""
        ...

    def latest(self) -> str:
        """URI of the last checkpoint of this run; "" if there is none."""
        ...

    def save(self, directory: str, progress: Progress, metrics: Metrics) -> None:
        """Hand over a checkpoint in a local directory; "" on all workers except 0."""
        ...

    def sigterm_received(self) -> bool:
        """Whether this worker has received SIGTERM since the last call."""
        ...

    def preempted(self) -> bool:
        """Whether any worker's node is about to be preempted."""
        ...

    def show(self, text: str, *, warn: bool = False) -> None:
        """Show a message to the user."""
        ...


@dataclass(frozen=True, slots=True)
class Status:
    """State that all workers agree on after some steps."""

    notice: bool = False
    """A worker was told to end."""

    save: bool = False
    """It is time for a checkpoint."""

    ask: bool = False
    """It is time to check for preempted nodes."""

    broken: bool = False
    """A number was not finite."""

    words: float = 0.0
    """Words of these steps; the following are sums over the steps too."""

    loss: float = 0.0
    gradient: float = 0.0
    """Sum of the gradient norms."""

    latest_loss: float = 0.0
    latest_gradient: float = 0.0


class TaskLoss(nn.Module):
    """The loss as a module's forward, which DDP hooks into."""

    def __init__(self, task: Task, model: Model) -> None:
        super().__init__()
        self.task = task
        self.model = model

    def forward(self, batch: Pair) -> Tensor:
        return self.task.loss(self.model, batch)


class Worker:
    """One of the workers of a training."""

    def __init__(
        self, task: Task, config: TrainConfig, run: Run, runtime: Runtime, images: order.Blocks
    ) -> None:
        self.task, self.config, self.run, self.runtime = task, config, run, runtime
        self.images, self.steps = images, order.steps(len(images), config)
        self.rank, self.workers = gathering.rank(), gathering.num_workers()
        torch.manual_seed(config.seed)  # the same weights on every worker
        self.model = task.build()
        self.loss_of = runtime.prepare(TaskLoss(task, self.model))
        self.optimizer = make_optimizer(self.model, config)
        self._every = 1 if runtime.device.type == "cpu" else GPU_STEPS
        self._saved = self._asked = self._shown = time.monotonic()
        self._preempted = self._suspected = self._alarmed = False
        self._dev: Any = None

    def train(self) -> None:
        """Train all epochs that are not done yet.

        Raises:
            alarms.TrainingError: on all workers alike; the training cannot continue.
            StorageError: a checkpoint cannot be read.
        """
        start = self._resume()
        for epoch in range(start.epoch, self.config.epochs):
            begun = time.monotonic()
            metrics = self._epoch(start if epoch == start.epoch else Progress(epoch=epoch))
            if self.rank == 0:
                self._measure(metrics, epoch, begun)
            self._checkpoint(Progress(epoch=epoch + 1), metrics)

    def _resume(self) -> Progress:
        uri = self.runtime.latest()
        if not uri:
            return Progress()
        checkpoints.load_weights(uri, self.model)
        progress = checkpoints.load_progress(uri, self.optimizer)
        if progress.step > self.steps or progress.epoch > self.config.epochs:
            raise StorageError(f"{uri} belongs to another training: {progress}")
        if self.rank == 0:
            at = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
            self.runtime.show(f"resuming at {at}, with {self.workers} worker(s)")
        return progress

    def _epoch(self, start: Progress) -> Metrics:
        """Run the remaining steps of an epoch -> mean loss, and speed."""
        self.loss_of.train()
        batches = order.global_batches(len(self.images), self.config, start.epoch)
        monitor, begun = Monitor(self.model, self.runtime.device), time.monotonic()
        words, images, status = 0, 0, Status()
        for step, batch in enumerate(self._batches(batches, start), start=start.step + 1):
            torch.manual_seed(self._seed(start.epoch, step))
            rate = learning_rate(self.config, start.epoch, start.epoch * self.steps + step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            on_device = batch.to(self.runtime.device)
            train_step(self.loss_of, self.optimizer, on_device, self.config, self.workers, monitor)
            words += len(batch.words.rows)
            images += len(batches[step - 1])
            if step % self._every == 0 or step == self.steps:
                status = self._gather_status(monitor, words)
                at = Progress(epoch=start.epoch, step=step, loss=start.loss + status.loss)
                self._check(status, monitor, at, start.step)
                self._show(status, at, images / (time.monotonic() - begun), begun)
        seconds, done = max(time.monotonic() - begun, 1e-9), max(1, self.steps - start.step)
        return {
            "train/loss": (start.loss + status.loss) / self.steps,
            "train/gradient": status.gradient / done,
            "train/words_per_second": status.words / seconds,
            "train/images_per_second": images / seconds,
        }

    def _batches(self, batches: list[order.Numbers], start: Progress) -> Iterator[Pair]:
        """This worker's slices of the remaining batches."""
        return order.prefetched(
            self.task.batch(
                self.images.take(order.share(batch, self.rank, self.workers)),
                epoch=start.epoch,
                seed=self.config.seed,
            )
            for batch in batches[start.step :]
        )

    def _seed(self, epoch: int, step: int) -> int:
        """Seed of dropout: different for every step and worker, and the same after a restart."""
        entropy = np.random.SeedSequence([self.config.seed, epoch, step, self.rank])
        return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _gather_status(self, monitor: Monitor, words: int) -> Status:
        now, minutes = time.monotonic(), self.config.checkpoint_minutes
        own = torch.tensor(
            [
                float(self.runtime.sigterm_received()),
                float(self.rank == 0 and now - self._saved > 60 * minutes),
                float(self.rank == 0 and now - self._asked > NOTICE_SECONDS),
                float(words),
            ],
            dtype=torch.float64,
            device=self.runtime.device,
        )
        everyone = torch.cat([own, monitor.is_broken()[None], monitor.totals()])
        rows = gathering.gather(everyone).tolist()
        notice, save, ask, word, broken, loss, _, latest_loss, _ = (
            sum(column) for column in zip(*rows, strict=True)
        )
        gradient, latest_gradient = rows[0][6], rows[0][8]  # the same on all workers
        return Status(
            *(notice > 0, save > 0, ask > 0, broken > 0),
            *(word, loss, gradient, latest_loss, latest_gradient),
        )

    def _check(self, status: Status, monitor: Monitor, at: Progress, first: int) -> None:
        """Stop if a number is not finite; write a checkpoint if one is due or a worker will end."""
        if status.broken:
            step, names = monitor.broken()
            raise alarms.not_finite(names, at.epoch + 1, first + step, self.config)
        notice = status.notice
        if status.ask:
            self._asked = time.monotonic()
            preempted = self.runtime.preempted()
            notice = notice or (preempted and not self._preempted)
            self._preempted = preempted
        if notice or (status.save and at.step < self.steps):
            if notice and self.rank == 0:
                self.runtime.show("a worker is about to end: writing a checkpoint", warn=True)
            self._checkpoint(at, {})

    def _show(self, status: Status, at: Progress, speed: float, begun: float) -> None:
        now = time.monotonic()
        if self.rank != 0 or now - self._shown < SHOW_SECONDS:
            return
        self._shown = now
        numbers = {
            "loss": status.latest_loss,
            "gradient": status.latest_gradient,
            "words_per_second": status.words / (now - begun),
            "images_per_second": speed,
        }
        step = at.epoch * self.steps + at.step
        self.run.metrics({f"step/{name}": value for name, value in numbers.items()}, step=step)
        left = (self.config.epochs * self.steps - step) * len(self.images) / self.steps / speed
        where = f"epoch {at.epoch + 1}/{self.config.epochs}  step {at.step}/{self.steps}"
        self.runtime.show(_line(where, numbers, left))

    def _measure(self, metrics: Metrics, epoch: int, begun: float) -> None:
        """Add dev metrics to those of an epoch if they are due, and report them all."""
        done = epoch + 1
        if done % self.config.measure_every == 0 or done == self.config.epochs:
            self.model.eval()
            self._dev = self.task.dev() if self._dev is None else self._dev
            metrics |= self.task.evaluate(self.model, self._dev) | {"epoch": float(done)}
        seconds = time.monotonic() - begun
        metrics["train/seconds"] = seconds
        alarm = alarms.collapse(
            self.task, self.config, metrics, epoch=done, images=len(self.images) / self.steps
        )
        metrics["alarm/collapsed"] = float(bool(alarm))
        self.run.metrics(metrics, step=epoch + 1)
        left = (self.config.epochs - epoch - 1) * seconds
        shown = {name: n for name, n in metrics.items() if name.startswith(("train/", "dev/"))}
        where = f"epoch {epoch + 1}/{self.config.epochs}"
        self.runtime.show(_line(where, shown, left))
        # Tolerate one such epoch: many captioners at first say the same for all images.
        sure = self._suspected or done == self.config.epochs
        self._suspected = bool(alarm) or (self._suspected and SPREAD not in metrics)
        if alarm and sure and not self._alarmed:
            self._alarmed = True
            self.run.tags({"alarm": alarm})
            self.runtime.show(alarm, warn=True)

    def _checkpoint(self, progress: Progress, metrics: Metrics) -> None:
        directory = ""
        if self.rank == 0:
            directory = tempfile.mkdtemp()
            checkpoints.save(directory, self.model, self.task.vocabulary)
            checkpoints.save_progress(directory, self.optimizer, progress)
        self.runtime.save(directory, progress, metrics)
        self._saved = time.monotonic()


def _line(where: str, numbers: Metrics, seconds_left: float) -> str:
    """A progress line."""
    names = [name.rpartition("/")[2].replace("_", " ") for name in numbers]
    texts = [f"{name} {_text(n)}" for name, n in zip(names, numbers.values(), strict=True)]
    return f"{where}  {'  '.join(texts)}  ({tqdm.format_interval(seconds_left)} left)"


def _text(number: float) -> str:
    """Four significant digits, or all digits of a large number; never 1.2e+04."""
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e9 else f"{number:.4g}"
