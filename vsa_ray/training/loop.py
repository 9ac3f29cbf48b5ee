"""Data-parallel training on Ray: any number of workers, CPU (gloo) or GPU (nccl).

The only module that imports `ray.train`, except for the callback of a search (tuning.py). Ray Data
puts features and texts into the object store, which spills to disk what does not fit into memory;
every worker fetches the blocks of its own images. Checkpoints are uploaded in the background. A run
that is killed and restarted, or whose workers or nodes die, resumes from the last one. The model of
the best epoch becomes the output.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.train import UserCallback
from ray.train.torch.config import _TorchBackend
from ray.util.queue import Queue
from torch import nn

from vsa_ray import checkpoints, machine, messages, storage
from vsa_ray.checkpoints import Progress
from vsa_ray.datasets.cluster import require_shared
from vsa_ray.outputs import Output, OutputError
from vsa_ray.tracking import Run
from vsa_ray.training import gathering, runs
from vsa_ray.training.alarms import TrainingError
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.order import Blocks
from vsa_ray.training.tasks import Metrics, Task
from vsa_ray.training.worker import Worker

logger = logging.getLogger(__name__)

MAX_FAILURES = 2
"""How often workers may die without a checkpoint in between; more is not bad luck."""

WORKER_CPUS = 0.75
"""Maximum logical CPUs of a worker. The rest of a CPU can recompute the blocks of a lost node."""

RESIZE_SECONDS = 60.0
"""How often a group with too few workers checks whether there are resources for more."""

NO_SCORE = -1e30
"""Score of a checkpoint within an epoch: below all others, so that Ray only keeps the last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainContext:
    """What runs alongside a training."""

    callbacks: Sequence[UserCallback] = ()
    """Called for every epoch that is evaluated."""

    at_once: int = 1
    """Number of trainings that share the CPUs, including this one."""


ALONE = TrainContext()


@dataclass(frozen=True, slots=True)
class _Assignment:
    """Everything that a worker is given."""

    task: Task
    config: TrainConfig
    run: Run
    output: Output
    blocks: list[ray.ObjectRef[pa.Table]]
    rows: list[int]
    """Number of images of each block."""

    log_queue: Queue
    """Pairs (level, text) for the driver to log."""

    at_once: int


def train(
    task: Task,
    images: ray.data.Dataset,
    config: TrainConfig,
    output: Output,
    run: Run,
    *,
    context: TrainContext = ALONE,
) -> Metrics:
    """Train a model and commit that of the best epoch as a checkpoint directory.

    Args:
        images: from datasets.training_images; each text has a word of the task's vocabulary.
        output: claimed by runs.begin; a training that was stopped there is resumed.

    Returns:
        The metrics of the best epoch.

    Raises:
        TrainingError: there are too few images, or the training cannot continue.
        OutputError: a node does not see the output, or the same training was started again.
        ray.train.WorkerGroupError: workers failed too often.
    """
    blocks, rows = _blocks(images)
    if sum(rows) < 2 * config.num_workers:
        raise TrainingError(
            f"{sum(rows)} training images are too few for {config.num_workers} worker(s), which "
            "need at least two each"
        )
    require_shared(output.uri)
    # Workers may have another working directory.
    output = replace(output, uri=storage.absolute(output.uri)).take_turn()
    with messages.open_queue() as log_queue:
        assignment = _Assignment(
            task, config, run, output, blocks, rows, log_queue, context.at_once
        )
        result = _fit(assignment, context.callbacks)
    if result.return_value is not None:
        raise TrainingError(result.return_value)
    epochs = [pair for pair in result.best_checkpoints or () if pair[1][task.score] > NO_SCORE]
    assert epochs, "a finished run has reported a checkpoint"
    checkpoint, metrics = max(epochs, key=lambda pair: pair[1][task.score])
    output.check_turn()
    checkpoints.copy(_uri(output.uri, checkpoint), output.uri)
    output.commit(best=metrics)
    runs.tidy(output.uri)
    return dict(metrics)


def _uri(output: str, checkpoint: ray.train.Checkpoint) -> str:
    return runs.uri(output, checkpoint.path.rpartition("/")[2])


def _fit(assignment: _Assignment, callbacks: Sequence[UserCallback]) -> Any:
    """Train, tolerating failures of workers as long as there is a checkpoint between them."""
    filesystem, path = storage.resolve(storage.join(assignment.output.uri, runs.CHECKPOINTS))
    own = [_Epochs(callback) for callback in callbacks]
    # Only once, so that the temporary loss of a node changes nothing.
    scaling = _scaling(assignment.config, assignment.at_once)
    on_interrupt = signal.getsignal(signal.SIGINT)
    while True:
        before = runs.done(assignment.output.uri)
        trainer = ray.train.torch.TorchTrainer(
            _run_worker,  # type: ignore[arg-type]  # its return value is in the result
            train_loop_config={"assignment": assignment},
            torch_config=_TorchConfig(),
            scaling_config=scaling,
            run_config=ray.train.RunConfig(
                name=runs.RUN,
                storage_path=path,
                storage_filesystem=filesystem,
                callbacks=own,  # type: ignore[arg-type]  # typed for Train V1
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute=assignment.task.score
                ),
            ),
        )
        try:
            return trainer.fit()
        except ray.train.WorkerGroupError:
            if runs.done(assignment.output.uri) == before:
                raise
            logger.warning("workers failed %d times; resuming", MAX_FAILURES + 1)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, on_interrupt)  # Ray Train leaves its own behind


def _blocks(images: ray.data.Dataset) -> tuple[list[ray.ObjectRef[pa.Table]], list[int]]:
    """The blocks, kept in Ray's object store, and the number of images in each."""
    bundles = images.materialize().iter_internal_ref_bundles()
    entries = [entry for bundle in bundles for entry in bundle.blocks]
    rows = [entry.metadata.num_rows for entry in entries]
    return [entry.ref for entry in entries], rows


def _scaling(config: TrainConfig, at_once: int) -> ray.train.ScalingConfig:
    """One GPU per worker; without GPUs, the CPUs except what data and a Tune trial need."""
    most, least = config.num_workers, config.min_workers or config.num_workers
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    settings: dict[str, Any] = {"num_workers": most if least == most else (least, most)}
    if gpus := resources.get("GPU", 0):
        settings["use_gpu"] = True
        if gpus < least:
            logger.warning("training needs %d GPUs, but there are %d: waiting", least, gpus)
    else:
        workers = most * at_once
        cpus = min(WORKER_CPUS, max(0.01, resources.get("CPU", 1) - 1.25) / workers)
        settings["resources_per_worker"] = {"CPU": cpus}
    settings["elastic_resize_monitor_interval_s"] = RESIZE_SECONDS
    return ray.train.ScalingConfig(**settings)


class _Epochs(UserCallback):
    """Passes only evaluated epochs on to another callback, and no other checkpoints."""

    def __init__(self, callback: UserCallback) -> None:
        self.callback = callback

    def after_report(self, run_context: Any, metrics: list[Any], checkpoint: Any) -> None:
        if "epoch" in metrics[0]:
            self.callback.after_report(run_context, metrics, checkpoint)


_told_to_end = threading.Event()


def _listen() -> None:
    """From now on SIGTERM makes this process write a checkpoint; the actual kill comes later."""
    signal.signal(signal.SIGTERM, lambda *_: _told_to_end.set())


class _Backend(_TorchBackend):
    """Training runs in a thread, but only the main thread, which runs this, receives signals."""

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(_listen)


class _TorchConfig(ray.train.torch.TorchConfig):
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


def _run_worker(settings: dict[str, Any]) -> str | None:
    """What every worker runs -> why the training cannot continue, or None."""
    assignment: _Assignment = settings["assignment"]
    runtime = _RayRuntime(assignment)
    if runtime.device.type == "cpu":
        sharing = ray.train.get_context().get_local_world_size() * assignment.at_once
        torch.set_num_threads(max(1, machine.cpus() // sharing))
    images = Blocks(assignment.rows, lambda number: ray.get(assignment.blocks[number]))
    try:
        assignment.output.check_turn()
        # Warnings, such as that MLflow is unreachable: nobody reads this process's log.
        with messages.forward_logs(assignment.log_queue, who="vsa_ray", least=logging.WARNING):
            Worker(assignment.task, assignment.config, assignment.run, runtime, images).train()
    except (TrainingError, OutputError) as error:  # if raised, Ray would retry
        return str(error)
    return None


class _RayRuntime:
    """A worker's runtime: Ray Train."""

    def __init__(self, assignment: _Assignment) -> None:
        self.assignment = assignment
        self.device: torch.device = ray.train.torch.get_device()

    def prepare(self, loss: nn.Module) -> nn.Module:
        prepared: nn.Module = ray.train.torch.prepare_model(
            loss, parallel_strategy_kwargs=gathering.AVERAGING
        )
        return prepared

    def latest(self) -> str:
        checkpoint = ray.train.get_checkpoint()
        return _uri(self.assignment.output.uri, checkpoint) if checkpoint else ""

    def save(self, directory: str, progress: Progress, metrics: Metrics) -> None:
        ray.train.report(
            {self.assignment.task.score: NO_SCORE, **metrics},
            checkpoint=ray.train.Checkpoint.from_directory(directory) if directory else None,
            checkpoint_dir_name=runs.name(progress),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._upload,
        )

    def _upload(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Runs in a thread; Ray registers the checkpoint when it returns."""
        self.assignment.output.check_turn()
        kept = ray.train.get_context().get_storage()
        checkpoints.upload(checkpoint.path, runs.uri(self.assignment.output.uri, name))
        shutil.rmtree(checkpoint.path)  # not before: Ray may retry a failed upload
        path = f"{kept.experiment_fs_path}/{name}"
        return ray.train.Checkpoint(path=path, filesystem=kept.storage_filesystem)

    def sigterm_received(self) -> bool:
        notice = _told_to_end.is_set()
        _told_to_end.clear()
        return notice

    def preempted(self) -> bool:
        return ray.train.get_preemption_info() is not None

    def show(self, text: str, *, warn: bool = False) -> None:
        self.assignment.log_queue.put((logging.WARNING if warn else logging.INFO, text))
