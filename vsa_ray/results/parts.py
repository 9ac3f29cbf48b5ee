"""Parts of a reproduction: each is made once, and remembered with how long it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from vsa_ray import storage

logger = logging.getLogger(__name__)


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
        file = name.replace(",", "").replace(" ", "_")
        path = storage.join(self._uri, f"{file}.json")
        if storage.exists(path):
            done = storage.read_json(path)
            logger.info("%s was done before", name)
        else:
            logger.info("%s", name)
            begun = time.monotonic()
            made = part()
            seconds = time.monotonic() - begun
            done = {"result": made, "seconds": seconds, "stamp": self._stamp}
            storage.write_json(path, done)
            logger.info("%s took %.0f s", name, seconds)
        self.seconds[name] = done["seconds"]
        if done["stamp"] not in self.stamps:
            self.stamps.append(done["stamp"])
        return done["result"]
