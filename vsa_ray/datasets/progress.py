"""Progress of a job: a bar on a terminal, lines in a log, curves in MLflow."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0

Log = Callable[..., None]
"""Takes metrics by name, and a `step`; see tracking.Run.metrics."""


class Progress:
    """Counts the rows that are written."""

    def __init__(self, name: str, total: int, done: int, log: Log | None) -> None:
        """`done` of `total` rows were written by earlier starts."""
        self._name, self._total, self._before, self._log = name, total, done, log
        self.by_status: Counter[str] = Counter()
        self.rows = 0
        self._started = self._logged = time.monotonic()
        # disable=None: no bar in a log file, where each update would be a line.
        self._bar = tqdm(total=total, initial=done, unit="row", desc=name, disable=None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._tell()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, rows: int, by_status: Mapping[str, int]) -> None:
        """Count the rows of a file."""
        self.rows += rows
        self.by_status.update(by_status)
        self._bar.update(rows)
        self._bar.set_postfix(self.failed)
        if time.monotonic() - self._logged >= LOG_SECONDS:
            self._tell()

    @property
    def failed(self) -> dict[str, int]:
        """Failures by reason, the most frequent first."""
        return {kind: n for kind, n in self.by_status.most_common() if kind != "ok"}

    def metrics(self) -> dict[str, float]:
        """Images per second since the start, and images by status."""
        found: dict[str, float] = {"images_per_second": self.rows / max(self.seconds, 1e-3)}
        return found | {f"images/{kind}": n for kind, n in self.by_status.items()}

    def _tell(self) -> None:
        self._logged = time.monotonic()
        metrics, done = self.metrics(), self._before + self.rows
        if self._log:
            self._log(metrics, step=done)
        if self._bar.disable:
            speed = metrics["images_per_second"]
            seconds = (self._total - done) / speed if speed else 0.0
            left = f"{tqdm.format_interval(seconds)} left" if speed else "starting"
            words: tuple[Any, ...] = (self._name, done, self._total, speed, left)
            failed = ", ".join(f"{n} {kind}" for kind, n in self.failed.items()) or "none"
            logger.info("%s: %d of %d rows, %.1f per second, %s; failed: %s", *words, failed)
