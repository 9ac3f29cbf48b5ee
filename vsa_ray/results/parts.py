"""Parts of a reproduction: each runs once, and its result is stored with its duration."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from vsa_ray import storage

logger = logging.getLogger(__name__)

Timed = tuple[Any, float]
"""The result of a part, and the seconds it took."""


class Parts:
    """A directory with one JSON file per finished part."""

    def __init__(self, uri: str, stamp: str) -> None:
        """`stamp` is stored with every part, such as the commit of the code that ran it."""
        self._uri = uri
        self._stamp = stamp
        self.seconds: dict[str, float] = {}
        self.stamps: list[str] = []
        """Distinct stamps of all parts."""

    def make(self, name: str, part: Callable[[], Any]) -> Any:
        """What `part` returns, which must be JSON; read from its file if it is done.

        For a part that was interrupted, only the seconds of its last start count.
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
        """The same for a part that `run` executes elsewhere, concurrently with others."""
        if not self._is_done(name):
            self._keep(name, await run(name, partial(timed, part)))
        return self._result(name)

    def _is_done(self, name: str) -> bool:
        if done := storage.exists(self._path(name)):
            logger.info("%s: already done", name)
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
    """Run a part -> its result and duration."""
    begun = time.monotonic()
    return part(), time.monotonic() - begun
