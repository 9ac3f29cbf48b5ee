"""A training on two nodes, one of which dies and comes back: test_training_survival.py starts it.

    python elastic.py FOLDER

Prints, as JSON, how many workers it had, how many images every epoch had, and how far the weights
are from those of one worker that was left alone.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import conftest
import disturbed
import ray
from disturbed import Disturbed
from ray.cluster_utils import Cluster

from jobs.launch import start_ray
from vsa_ray.training import loop, runs

EPOCHS = 100


def slow(task: Disturbed, step: int) -> None:
    """So that epochs are there to be disturbed."""
    time.sleep(0.25)


def workers_of(toy: Path, out: str) -> list[int]:
    """How many there were, one after the other."""
    found: list[int] = []
    for note in disturbed.notes(toy, out, "steps"):
        if not found or found[-1] != note["workers"]:
            found.append(note["workers"])
    return found


def disturb(cluster: Cluster, node: Any, toy: Path, out: str) -> None:
    """Kill the node while both work, in the middle of an epoch; bring another when one works."""
    wait(lambda: runs.done(out) is not None and len(disturbed.notes(toy, out, "steps")) > 12)
    assert workers_of(toy, out) == [2]
    cluster.remove_node(node, allow_graceful=False)
    wait(lambda: workers_of(toy, out)[-1] == 1)
    time.sleep(2)
    cluster.add_node(num_cpus=2)


def wait(for_what: Any) -> None:
    for _ in range(2000):
        if for_what():
            return
        time.sleep(0.1)
    raise TimeoutError


def images_by_epoch(toy: Path, out: str) -> list[int]:
    """Different images that were learned. What a group learned in vain, the next learned again."""
    learned = [note for ones in disturbed.learned(toy, out).values() for note in ones]
    return [
        len({image for note in learned if note["epoch"] == epoch for image in note["images"]})
        for epoch in range(EPOCHS)
    ]


def main(folder: Path) -> None:
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "20"
    loop.RESIZE_SECONDS = 3.0
    toy = conftest._toy(folder)
    out = str(toy / "elastic")
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary:
        cluster = Cluster(
            initialize_head=True,  # with room for one worker
            head_node_args={"num_cpus": 1, "include_dashboard": False, "temp_dir": temporary},
        )
        node = cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        start_ray()
        settings = {"dropout": 0.0, "epochs": EPOCHS, "min_workers": 1}
        training = threading.Thread(target=disturbed.train, args=(toy, out, slow), kwargs=settings)
        training.start()
        disturb(cluster, node, toy, out)  # starts a node, which only the main thread can
        training.join()
        alone = str(toy / "alone")
        disturbed.train(toy, alone, dropout=0.0, epochs=EPOCHS)
        ray.shutdown()
        cluster.shutdown()
    found, expected = disturbed.weights(out), disturbed.weights(alone)
    result = {
        "workers": workers_of(toy, out),
        "epochs": EPOCHS,
        "images_by_epoch": images_by_epoch(toy, out),
        "difference": max(float((found[name] - expected[name]).abs().max()) for name in expected),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
