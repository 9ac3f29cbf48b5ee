"""Errors that the user can fix, as opposed to bugs in this program."""

from __future__ import annotations

from collections.abc import Iterator


class UserError(ValueError):
    """Says what is wrong and what to do about it: jobs print its text without a traceback."""


def user_error_in(error: BaseException) -> UserError | None:
    """The UserError behind an error: the error itself, its cause, or one from a worker."""
    # Errors that Ray forwards from a worker are UserErrors too, but with a traceback as their text.
    own = (one for one in _chain(error) if not isinstance(getattr(one, "cause", None), Exception))
    return next((one for one in own if isinstance(one, UserError)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, then its causes. Ray keeps a worker's error in an attribute of its own."""
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
