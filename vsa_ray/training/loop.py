"""Data-parallel training on Ray: any number of workers, CPU (gloo) or GPU (nccl).

The only door to `ray.train`. Features stream from Parquet through Ray Data to the workers; each
epoch ends with dev metrics and a checkpoint in the run's storage, from which a run that is killed
and started again, or whose worker dies, goes on. The best epoch's model becomes the output.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.train import UserCallback
from ray.util.queue import Queue
from torch import Tensor, nn

from vsa_ray import checkpoints, storage
from vsa_ray.outputs import Output
from vsa_ray.tracking import Run
from vsa_ray.training import gathering
from vsa_ray.training.config import TrainConfig, learning_rate, make_optimizer
from vsa_ray.training.tasks import Metrics, Model, Pair, Task

logger = logging.getLogger(__name__)

CHECKPOINTS = "_train"
"""Ray's own storage of a run, below its output; removed when the model is committed."""

MAX_FAILURES = 2


@dataclass(frozen=True, slots=True)
class _Work:
    """All that a worker is told."""

    task: Task
    config: TrainConfig
    run: Run
    progress: Queue
    """Each epoch's metrics, for the driver to show."""


def train(
    task: Task,
    images: ray.data.Dataset,
    config: TrainConfig,
    output: Output,
    run: Run,
    *,
    callbacks: Sequence[UserCallback] = (),
) -> Metrics:
    """Train a model and commit the best epoch's as a checkpoint directory.

    Args:
        images: as datasets.training_images makes them, each text with a word that the task's
            vocabulary knows.
        callbacks: hear of every epoch.

    Returns:
        The metrics of the best epoch.

    Raises:
        OutputError: the output belongs to another job.
        ray.train.WorkerGroupError: workers failed more often than is worth repeating.
    """
    output.begin()
    progress = Queue(actor_options={"num_cpus": 0})
    filesystem, path = storage.resolve(storage.join(output.uri, CHECKPOINTS))
    trainer = ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={"work": _Work(task, config, run, progress)},
        datasets={"train": images},
        dataset_config=ray.train.DataConfig(
            execution_options=ray.data.ExecutionOptions(preserve_order=True)
        ),
        scaling_config=_scaling(config.num_workers),
        run_config=ray.train.RunConfig(
            name="run",
            storage_path=path,
            storage_filesystem=filesystem,
            callbacks=list(callbacks),  # type: ignore[arg-type]  # typed for Train V1
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=task.score
            ),
        ),
    )
    with _shown(progress, config):
        result = trainer.fit()
    assert result.best_checkpoints, "a finished run has reported a checkpoint"
    checkpoint, metrics = max(result.best_checkpoints, key=lambda pair: pair[1][task.score])
    with checkpoint.as_directory() as directory:
        checkpoints.copy(directory, output.uri)
    output.commit(best=metrics)
    storage.delete(storage.join(output.uri, CHECKPOINTS))
    return metrics


def _scaling(num_workers: int) -> ray.train.ScalingConfig:
    """A GPU a worker; without any, the CPUs, but for what data and a trial of Tune need."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if resources.get("GPU", 0) >= num_workers:
        return ray.train.ScalingConfig(num_workers=num_workers, use_gpu=True)
    cpus = min(1.0, max(0.0, resources.get("CPU", 1) - 1.25) / num_workers)
    return ray.train.ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": cpus})


class _Loss(nn.Module):
    """The loss as a module's forward, which is where DDP hooks in."""

    def __init__(self, task: Task, model: Model) -> None:
        super().__init__()
        self.task = task
        self.model = model

    def forward(self, batch: Pair) -> Tensor:
        return self.task.loss(self.model, batch)


def _work(settings: dict[str, Any]) -> None:
    """What every worker runs."""
    work: _Work = settings["work"]
    task, config = work.task, work.config
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    torch.manual_seed(config.seed)  # the same weights on every worker
    model = task.build()
    loss_of = ray.train.torch.prepare_model(_Loss(task, model))
    optimizer = make_optimizer(model, config)
    images = ray.train.get_dataset_shard("train")
    for epoch in range(_resume(model, optimizer), config.epochs):
        started = time.monotonic()
        loss = _epoch(loss_of, optimizer, images, work, epoch)
        checkpoint, metrics = None, {"train/loss": loss}
        if first:
            model.eval()
            metrics |= task.evaluate(model)
            metrics |= {"train/seconds": time.monotonic() - started, "epoch": float(epoch + 1)}
            work.run.metrics(metrics, step=epoch + 1)
            work.progress.put(metrics)
            checkpoint = _checkpoint(model, optimizer, task, epoch)
        # Every worker has to report.
        ray.train.report(metrics, checkpoint=checkpoint, delete_local_checkpoint_after_upload=True)


def _epoch(
    loss_of: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: ray.data.DataIterator,
    work: _Work,
    epoch: int,
) -> float:
    """One pass over the data -> mean loss of a global batch."""
    config, workers = work.config, gathering.num_workers()
    device = ray.train.torch.get_device()
    # Dropout differs between workers and epochs, and is the same again after a restart.
    torch.manual_seed((config.seed * 10_007 + epoch) * 1_009 + gathering.rank())
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, epoch)
    loss_of.train()
    total, batches = torch.zeros((), device=device), 0
    for table in images.iter_batches(
        batch_size=config.batch_size // workers,
        batch_format="pyarrow",
        local_shuffle_buffer_size=config.shuffle_images,
        local_shuffle_seed=config.seed * 10_007 + epoch,
    ):
        batch = work.task.batch(table, epoch=epoch, seed=config.seed).to(device)
        share = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        (share * workers).backward()  # DDP divides by the workers, but shares add up
        nn.utils.clip_grad_value_(loss_of.parameters(), config.max_gradient)
        optimizer.step()
        total += share.detach()  # stays on the device: .item() here would stall every step
        batches += 1
    loss = float(gathering.gather(total).sum()) / max(1, batches)
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss of epoch {epoch + 1} is {loss}; lower learning_rate "
            f"({config.learning_rate}) or max_gradient ({config.max_gradient})"
        )
    return loss


def _checkpoint(
    model: Model, optimizer: torch.optim.Optimizer, task: Task, epoch: int
) -> ray.train.Checkpoint:
    directory = tempfile.mkdtemp()
    checkpoints.save(directory, model, task.vocabulary)
    checkpoints.save_progress(directory, optimizer, epochs=epoch + 1)
    return ray.train.Checkpoint.from_directory(directory)


def _resume(model: Model, optimizer: torch.optim.Optimizer) -> int:
    """Go on from the run's last checkpoint, if there is one -> the first epoch to run."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as directory:
        checkpoints.load_weights(directory, model)
        return checkpoints.load_progress(directory, optimizer)


@contextmanager
def _shown(progress: Queue, config: TrainConfig) -> Iterator[None]:
    """Log every epoch while the workers train; the driver itself is waiting for them."""
    shower = threading.Thread(target=_show, args=(progress, config), daemon=True)
    shower.start()
    try:
        yield
    finally:
        progress.put(None)
        shower.join()
        progress.shutdown(force=True)


def _show(progress: Queue, config: TrainConfig) -> None:
    while (metrics := progress.get()) is not None:
        epoch = int(metrics["epoch"])
        numbers = (f"{key.rpartition('/')[2]} {v:.4g}" for key, v in metrics.items() if "/" in key)
        left = (config.epochs - epoch) * metrics["train/seconds"]
        logger.info(
            "epoch %d/%d  %s  (%.0f s left)", epoch, config.epochs, "  ".join(numbers), left
        )
