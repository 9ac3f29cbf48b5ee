"""Parts of a reproduction: each is made once, and remembered with how long it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from vsa_ray import storage

logger = logging.getLogger(__name__)

Timed = tuple[Any, float]
"""What a part made, and its seconds."""


class Parts:
    """A directory with a JSON file a part that is done."""

    def __init__(self, uri: str, stamp: str) -> None:
        """`stamp` is written beside every part, such as the commit of the code that made it."""
        self._uri = uri
        self._stamp = stamp
        self.seconds: dict[str, float] = {}
        self.stamps: list[str] = []
        """Of all parts, without repetitions."""

    def make(self, name: str, part: Callable[[], Any]) -> Any:
        """What `part` returns, which has to be JSON; from its file where it is done.

        The seconds of a part that was stopped are those since it was started last.
        """
        if not self._is_done(name):
            logger.info("%s", name)
            self._keep(name, timed(part))
        return self._result(name)

    async def make_apart(
        self,
        name: str,
        part: Callable[[], Any],
        run: Callable[[str, Callable[[], Timed]], Awaitable[Timed]],
    ) -> Any:
        """The same, of a part that `run` takes elsewhere while others go on."""
        if not self._is_done(name):
            self._keep(name, await run(name, partial(timed, part)))
        return self._result(name)

    def _is_done(self, name: str) -> bool:
        if done := storage.exists(self._path(name)):
            logger.info("%s was done before", name)
        return done

    def _keep(self, name: str, made: Timed) -> None:
        result, seconds = made
        kept = {"result": result, "seconds": seconds, "stamp": self._stamp}
        storage.write_json(self._path(name), kept)
        logger.info("%s took %.0f s", name, seconds)

    def _result(self, name: str) -> Any:
        done = storage.read_json(self._path(name))
        self.seconds[name] = done["seconds"]
        if done["stamp"] not in self.stamps:
            self.stamps.append(done["stamp"])
        return done["result"]

    def _path(self, name: str) -> str:
        file = name.replace(",", "").replace(" ", "_")
        return storage.join(self._uri, f"{file}.json")


def timed(part: Callable[[], Any]) -> Timed:
    """What a part returns, and its seconds."""
    begun = time.monotonic()
    return part(), time.monotonic() - begun
