"""Forward log messages from processes of the cluster to the driver, whose log the user sees."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)


@contextmanager
def open_queue() -> Iterator[Queue]:
    """A queue of pairs (level, text), which are logged as they arrive until the block ends."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # If the queue's process dies, the workers that log to it must survive.
    lasting = {"max_restarts": -1, "max_task_retries": -1}
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here, **lasting})
    shower = threading.Thread(target=_show, args=(messages,), daemon=True)
    shower.start()
    try:
        yield messages
    finally:
        messages.put(None)
        shower.join()
        messages.shutdown(force=True)


def _show(messages: Queue) -> None:
    while (message := messages.get()) is not None:
        logger.log(*message)


@contextmanager
def forward_logs(
    log_queue: Queue, prefix: str = "", *, who: str = "", least: int = logging.INFO
) -> Iterator[None]:
    """Also send what this process logs to a queue.

    Args:
        log_queue: from `open_queue`.
        prefix: prepended to every text.
        who: name of the logger to forward, with its children.
        least: lowest level to forward.
    """

    class ToQueue(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log_queue.put((record.levelno, prefix + self.format(record)))

    listened, own = logging.getLogger(who), ToQueue(least)
    level = listened.level
    listened.addHandler(own)
    listened.setLevel(least)
    try:
        yield
    finally:
        listened.setLevel(level)
        listened.removeHandler(own)
