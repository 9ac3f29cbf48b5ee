"""What becomes of a search's trials, some of which fail; and a search that was begun before."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray.tune
from ray.tune.tune import _setup_signal_catching

from jobs import train_alignment, tune
from vsa_ray import storage, tuning
from vsa_ray.errors import UserError, user_error_in
from vsa_ray.outputs import OutputError
from vsa_ray.tuning import SearchConfig, SearchError, Trial

SCORE = "dev/mean_recall"


@dataclass(frozen=True)
class Result:
    config: dict[str, Any] | None
    metrics_dataframe: pd.DataFrame | None
    error: Exception | None = None


@dataclass(frozen=True)
class Results:
    """As Ray's ResultGrid."""

    found: list[Result] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> Result:
        return self.found[i]

    @property
    def errors(self) -> list[Exception]:
        return [result.error for result in self.found if result.error]


def ranked(*found: Result) -> list[Trial]:
    return tuning._ranked(Results(list(found)), SCORE)  # type: ignore[arg-type]


def history(*scores: float) -> pd.DataFrame:
    return pd.DataFrame({SCORE: scores, "epoch": [float(i + 1) for i in range(len(scores))]})


def test_the_best_first_each_by_its_best_epoch() -> None:
    found = ranked(Result({"margin": 1}, history(3, 9, 5)), Result({"margin": 2}, history(10)))
    assert found == [Trial({"margin": 2}, 10.0, 1), Trial({"margin": 1}, 9.0, 3)]


def test_an_epoch_that_was_reported_twice_is_one() -> None:
    twice = pd.concat([history(3, 4), history(3, 4, 5).iloc[1:]])
    assert ranked(Result({}, twice)) == [Trial({}, 5.0, 3)]


def test_a_trial_that_failed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broken = Result({}, None, RuntimeError("Traceback ...\nFloatingPointError: the loss is nan\n"))
    assert len(ranked(broken, Result({}, history(1)))) == 1
    assert caplog.messages == [
        "1 of 2 trials failed, the first with: FloatingPointError: the loss is nan"
    ]


def test_without_any_score_the_first_reason_is_given() -> None:
    broken = [Result({}, None, UserError("no dev split")), Result(None, None, KeyError("x"))]
    with pytest.raises(
        SearchError, match="2 of 2 trials failed, the first with: no dev split"
    ) as e:
        ranked(*broken)
    assert str(user_error_in(e.value)) == "no dev split"


def test_trials_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @dataclass
    class Running:
        config: dict[str, Any]
        last_result: dict[str, float]

    trials = [
        Running({}, {}),
        Running({"margin": 0.123456, "embed_dim": 8}, {SCORE: 7, "epoch": 2}),
    ]
    told = tuning._Told(4, SCORE)
    told.on_trial_start(0, trials, trials[1])
    told.on_trial_complete(0, trials, trials[1])
    told.on_trial_error(0, trials, trials[0])
    assert caplog.messages == [
        "trial 2/4: embed_dim 8, margin 0.1235",
        "trial 2/4: 7.00 after 2 epochs",
        "trial 1/4: failed",
    ]


class Interrupted:
    """Ray's Tuner, at Ctrl-C after its first trial."""

    def __init__(self, *_: object, **__: object) -> None: ...

    @staticmethod
    def can_restore(*_: object, **__: object) -> bool:
        return False

    def fit(self) -> Results:
        _setup_signal_catching()
        os.kill(os.getpid(), signal.SIGINT)
        return Results([Result({}, history(1))])


def test_ctrl_c_is_no_end_of_a_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray.tune, "Tuner", Interrupted)
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "0")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tuning.search(
                lambda *_: {}, SearchConfig(), str(tmp_path), searched=(), score=SCORE, epochs=3
            )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def job(run: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> tune.JobConfig:
    """A search whose trials are made up; its directory is counted in `searches`."""
    found = [Trial({"margin": 0.5, "embed_dim": 8, "learning_rate": 0.1}, 42.0, 3)]
    monkeypatch.setattr(tune, "search", lambda *_, **__: found)
    monkeypatch.setattr(train_alignment, "prepare", lambda _: None)
    at = {name: str(run / name) for name in ("regions", "sentences")}
    return tune.JobConfig(**at, out=str(here / "tune"))


def test_a_mistake_is_told_once_and_claims_no_output(
    job: tune.JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(config: train_alignment.JobConfig) -> None:
        assert config.regions == job.regions
        raise UserError("lower min_count")

    monkeypatch.setattr(train_alignment, "prepare", prepare)
    with pytest.raises(UserError, match="lower min_count"):
        tune.main(job)
    assert not Path(job.out).exists()


def test_other_settings_are_refused(job: tune.JobConfig) -> None:
    tune.main(job)
    for other in [
        replace(job, search=SearchConfig(trials=9)),
        replace(job, training=replace(job.training, epochs=3)),
    ]:
        with pytest.raises(OutputError, match=r"begun with another .*; use another --out"):
            tune.main(other)


def test_a_softmax_has_no_margin_to_search(
    job: tune.JobConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []

    def search(*_: object, searched: list[str], **__: object) -> list[Trial]:
        asked.append(searched)
        return [Trial({"embed_dim": 8, "learning_rate": 0.1}, 42.0, 3)]

    monkeypatch.setattr(tune, "search", search)
    with caplog.at_level(logging.INFO):
        tune.main(replace(job, alignment=replace(job.alignment, loss="softmax")))
    assert asked == [["embed_dim", "learning_rate"]]
    flags = "--alignment.embed-dim 8 --alignment-training.learning-rate 0.1"
    assert f"python -m jobs.pipeline {flags}" in caplog.text


def test_a_search_that_is_done_is_not_done_again(
    job: tune.JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = tune.main(job)
    monkeypatch.delattr(tune, "search")
    assert tune.main(job) == trials
    assert storage.read_json(f"{job.out}/trials.json") == trials
    assert trials[0]["score"] == 42.0
