"""Search for settings of the alignment, with a Ray Train run per trial. Only this uses `ray.tune`.

Optuna proposes margin, embedding size and learning rate; ASHA stops trials that fall behind. In
MLflow the search is one run with a nested run per trial.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from vsa_ray import storage
from vsa_ray.errors import user_error_in

logger = logging.getLogger(__name__)

EXPERIMENT = "_tune"
"""Ray's state of a search below its output, from which it is resumed."""

SEARCHED = ("margin", "embed_dim", "learning_rate")

Settings = dict[str, Any]
"""A proposal: values for some of SEARCHED."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    trials: int = 8
    """Number of combinations of settings to try, each in a training of its own."""

    concurrent_trials: int = 1
    """Trainings that run concurrently, each with training.num_workers processes."""

    margin: tuple[float, float] = (0.05, 2.0)
    """Lowest and highest alignment.margin to try, on a logarithmic scale. Not used with the softmax
    loss, which has no margin."""

    embed_dim: tuple[int, ...] = (256, 512, 1000)
    """Values of alignment.embed_dim to try."""

    learning_rate: tuple[float, float] = (1e-4, 1e-2)
    """Lowest and highest training.learning_rate to try, on a logarithmic scale."""

    grace_epochs: int = 3
    """Epochs before a trial can be stopped for being worse than others. Trials are only compared
    after evaluated epochs, see training.measure_every."""

    seed: int = 0
    """Seed of the proposals."""

    def __post_init__(self) -> None:
        for name in ("trials", "concurrent_trials", "grace_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"SearchConfig.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("margin", "learning_rate"):
            low, high = getattr(self, name)
            if not 0 < low < high < math.inf:
                raise ValueError(
                    f"SearchConfig.{name} must be two numbers, 0 < low < high, got {low} and {high}"
                )
        if not 0 <= self.seed < 2**32:  # as numpy takes it, with which Optuna draws
            raise ValueError(f"SearchConfig.seed must be in [0, 2**32), got {self.seed}")
        if not self.embed_dim or min(self.embed_dim) < 1:
            raise ValueError(f"SearchConfig.embed_dim must be sizes >= 1, got {self.embed_dim}")


class SearchError(RuntimeError):
    """No trial of a search produced a score."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A proposal that was tried, its best score, and how long it trained."""

    settings: Settings
    score: float
    epochs: int


def search(
    trial: Callable[[Settings, list[ray.train.UserCallback]], dict[str, float]],
    config: SearchConfig,
    out: str,
    *,
    searched: Sequence[str],
    score: str,
    epochs: int,
) -> list[Trial]:
    """Try proposals -> trials, best first. A search that was killed is resumed.

    Args:
        trial: trains with a proposal, passing the callbacks to the training; returns the metrics of
            the best epoch.
        searched: which of SEARCHED are proposed.
        score: the metric to maximise.
        epochs: length of a trial that is not stopped early.

    Raises:
        SearchError: all trials failed; its cause is the first one's error.
        KeyboardInterrupt: on Ctrl-C.
    """
    # Otherwise Tune would handle Ctrl-C, and return the trials so far as if they were all.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    filesystem, path = storage.resolve(out)
    experiment = f"{path}/{EXPERIMENT}"

    def run(settings: Settings) -> dict[str, float]:
        # Returning the best epoch reports it once more: Tune may have been killed after the last
        # epoch, before it saved that report, and then no epoch is left to train and report.
        return trial(settings, [TuneReportCallback()])  # type: ignore[no-untyped-call]

    # The trial itself only waits for its workers, which ask for their own resources.
    trainable = ray.tune.with_resources(run, {"CPU": 0.1})
    if ray.tune.Tuner.can_restore(experiment, storage_filesystem=filesystem):
        tuner = ray.tune.Tuner.restore(
            experiment, trainable, resume_errored=True, storage_filesystem=filesystem
        )
    else:
        tuner = ray.tune.Tuner(
            trainable,
            param_space={name: _range(config, name) for name in searched},
            tune_config=ray.tune.TuneConfig(
                metric=score,
                mode="max",
                num_samples=config.trials,
                max_concurrent_trials=config.concurrent_trials,
                search_alg=OptunaSearch(seed=config.seed),
                scheduler=ASHAScheduler(
                    time_attr="epoch",
                    max_t=epochs,
                    grace_period=config.grace_epochs,
                    stop_last_trials=False,  # a finished trial still has to commit its model
                ),
            ),
            run_config=ray.tune.RunConfig(
                name=EXPERIMENT,
                storage_path=path,
                storage_filesystem=filesystem,
                callbacks=[_Told(config.trials, score)],
                verbose=0,  # no tables at every change; see _Told
            ),
        )
    return _ranked(tuner.fit(), score)


def _range(config: SearchConfig, name: str) -> Any:
    if name == "embed_dim":
        return ray.tune.choice(list(config.embed_dim))
    return ray.tune.loguniform(*getattr(config, name))


class _Told(ray.tune.Callback):
    """Logs a line when a trial starts, and one when it ends."""

    def __init__(self, trials: int, score: str) -> None:
        self.trials = trials
        self.score = score

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trials, trial, short(trial.config))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        score, epochs = trial.last_result[self.score], trial.last_result["epoch"]
        self._tell(trials, trial, f"{score:.2f} after {epochs:.0f} epochs")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trials, trial, "failed")

    def _tell(self, trials: list[Any], trial: Any, text: str) -> None:
        logger.info("trial %d/%d: %s", trials.index(trial) + 1, self.trials, text)


def short(settings: Settings) -> str:
    """A proposal in one line."""
    return ", ".join(f"{name} {settings[name]:.4g}" for name in sorted(settings))


def _ranked(results: ray.tune.ResultGrid, score: str) -> list[Trial]:
    trials = []
    for result in (results[i] for i in range(len(results))):
        history = result.metrics_dataframe
        if result.config is not None and history is not None and score in history:
            # Not the number of rows: after a restart an epoch may occur twice.
            epochs = int(history["epoch"].max())
            trials.append(Trial(result.config, float(history[score].max()), epochs))
    errors: list[Exception] = results.errors
    if errors:
        failures = (
            f"{len(errors)} of {len(results)} trials failed, the first with: {_reason(errors[0])}"
        )
        if not trials:
            raise SearchError(failures) from errors[0]
        logger.warning("%s", failures)
    return sorted(trials, key=lambda trial: -trial.score)


def _reason(error: Exception) -> str:
    """The last line of a worker's error as Ray reports it; the rest is a traceback."""
    lines = [line.strip() for line in str(user_error_in(error) or error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)
