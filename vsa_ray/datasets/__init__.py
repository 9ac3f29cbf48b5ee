"""Stages wired into Ray Data. The only door to `ray.data`.

    parts ─▶ read ─▶ slices ─▶ stages (tasks, or actors that hold a model) ─▶ write

A row of the plan is a *slice*: the rows that a model gets as one batch, and which rows of the input
they are (slices.py). All slices stream through at once, one a block; Ray may move them in any order
and run them twice, but never cuts one. The last stage writes files that are named after the rows in
them, so a job that goes on after a kill knows from names alone what is left (spans.py).

Ray Data's own checkpoints were the other way: they keep every id that is done in one array in
memory, and filter rows after they have been read, so a restart downloads all images again.
"""

from vsa_ray.datasets.cluster import configure, each, model_workers
from vsa_ray.datasets.making import Stage, make_table
from vsa_ray.datasets.tables import training_images

__all__ = ["Stage", "configure", "each", "make_table", "model_workers", "training_images"]
