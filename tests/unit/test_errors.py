"""What is a user's mistake, and what is not; also through what Ray brings from a worker."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import RayTaskError
from ray.train import WorkerGroupError

from vsa_ray.config import ConfigError
from vsa_ray.errors import UserError, user_error_in
from vsa_ray.outputs import OutputError
from vsa_ray.storage import StorageError
from vsa_ray.tracking import TrackingError


@pytest.mark.parametrize("kind", [ConfigError, OutputError, StorageError, TrackingError])
def test_kinds_of_mistakes(kind: type[UserError]) -> None:
    error = pickle.loads(pickle.dumps(kind("so and so")))
    assert user_error_in(error) is error
    assert str(error) == "so and so"


def from_worker(error: Exception) -> Exception:
    raised: Exception = RayTaskError("work", "Traceback of the worker", error).as_instanceof_cause()
    return raised


def test_a_mistake_that_showed_on_a_worker() -> None:
    mistake = UserError("no region at all")
    assert user_error_in(from_worker(mistake)) is mistake
    assert user_error_in(WorkerGroupError("worker 0 failed", {0: mistake})) is mistake
    assert user_error_in(from_worker(WorkerGroupError("failed", {0: mistake}))) is mistake


def test_a_mistake_that_another_error_came_of() -> None:
    error, mistake = RuntimeError("all trials failed"), UserError("lower it")
    error.__cause__ = mistake
    mistake.__cause__ = error  # a circle is no trouble
    assert user_error_in(error) is mistake


@pytest.mark.parametrize("error", [ValueError("bug"), from_worker(KeyError("bug")), KeyError()])
def test_errors_of_the_program_are_no_mistakes(error: Exception) -> None:
    assert user_error_in(error) is None
