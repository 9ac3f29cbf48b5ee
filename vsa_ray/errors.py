"""What a user can put right, told apart from what is wrong with this program."""

from __future__ import annotations

from collections.abc import Iterator


class UserError(ValueError):
    """Says what is wrong and what to do about it: a job shows its text, and no traceback."""


def mistake_behind(error: BaseException) -> UserError | None:
    """The user's mistake that an error came of: itself, its cause, or what failed on a worker."""
    # What Ray brings from a worker is a UserError too, but its text is the worker's traceback.
    own = (one for one in _chain(error) if not isinstance(getattr(one, "cause", None), Exception))
    return next((one for one in own if isinstance(one, UserError)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, then what lies behind it. Ray keeps a worker's error in an attribute of its own."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        workers = getattr(one, "worker_failures", None)  # of Ray Train, by rank
        behind = [one.__cause__, getattr(one, "cause", None)]
        behind += list(workers.values()) if isinstance(workers, dict) else []
        waiting += [other for other in behind if isinstance(other, BaseException)]
