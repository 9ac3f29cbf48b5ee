"""Search for settings of the alignment, a Ray Train run a trial. The only door to `ray.tune`.

Optuna proposes margin, embedding size and learning rate; ASHA stops trials that fall behind. In
MLflow the search is one run with a run below it for every trial.
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
from vsa_ray.errors import mistake_behind

logger = logging.getLogger(__name__)

EXPERIMENT = "_tune"
"""Ray's own state of a search, below its output: what it is resumed from."""

SEARCHED = ("margin", "embed_dim", "learning_rate")

Settings = dict[str, Any]
"""A proposal: what is chosen of SEARCHED."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    trials: int = 8
    """How many combinations of settings are tried, each by a training."""

    concurrent_trials: int = 1
    """Trainings that run at the same time, each with training.num_workers processes."""

    margin: tuple[float, float] = (0.05, 2.0)
    """Lowest and highest alignment.margin that is tried, on a logarithmic scale. Not used with the
    softmax loss, which has no margin."""

    embed_dim: tuple[int, ...] = (256, 512, 1000)
    """The values of alignment.embed_dim that are tried."""

    learning_rate: tuple[float, float] = (1e-4, 1e-2)
    """Lowest and highest training.learning_rate that is tried, on a logarithmic scale."""

    grace_epochs: int = 3
    """Epochs that every trial may train before it can be stopped for being worse than others. It is
    judged only after epochs that are measured, see training.measure_every."""

    seed: int = 0
    """Decides which combinations are proposed."""

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
    """No trial of a search came to a score."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A proposal that was tried, and its best epoch."""

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
    """Try proposals -> trials, the best first. A search that was killed goes on.

    Args:
        trial: trains with a proposal, and hands the callbacks on to the training; returns the
            metrics of the best epoch.
        searched: which of SEARCHED are proposed.
        score: the metric that says how good an epoch was; higher is better.
        epochs: how many a trial runs if it is not stopped.

    Raises:
        SearchError: all trials failed; its cause is the first one's.
        KeyboardInterrupt: at Ctrl-C.
    """
    # Or Tune would take Ctrl-C for itself, and return the trials so far as if they were all.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    filesystem, path = storage.resolve(out)
    experiment = f"{path}/{EXPERIMENT}"

    def run(settings: Settings) -> dict[str, float]:
        # Tune hears of the best epoch once more at the end: it may have been killed after the last
        # one, before it had written down what it heard, and then there is none left to train.
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
                    stop_last_trials=False,  # what has been trained is still to be kept
                ),
            ),
            run_config=ray.tune.RunConfig(
                name=EXPERIMENT,
                storage_path=path,
                storage_filesystem=filesystem,
                callbacks=[_Told(config.trials, score)],
                verbose=0,  # tables of every change; see _Told
            ),
        )
    return _ranked(tuner.fit(), score)


def _range(config: SearchConfig, name: str) -> Any:
    if name == "embed_dim":
        return ray.tune.choice(list(config.embed_dim))
    return ray.tune.loguniform(*getattr(config, name))


class _Told(ray.tune.Callback):
    """Logs a line when a trial begins, and one when it ends."""

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
            # Not its rows: after a restart an epoch may be there twice.
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
    """The last line of what Ray tells of an error on a worker: the rest is its traceback."""
    lines = [line.strip() for line in str(mistake_behind(error) or error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)
