"""Stages as Ray Data plans. The only package that imports `ray.data`.

    parts ─▶ read ─▶ slices ─▶ stages (tasks, or actors that hold a model) ─▶ write

A row of the plan is a *slice*: the rows that a model gets as one batch, with their position in the
input (slices.py). Slices stream through all stages, one per block; Ray may reorder or repeat them,
but never splits one. The last stage writes files named after the rows in them, so a resumed job
knows from names alone what is left (spans.py).

The alternative, Ray Data's own checkpoints, keeps every finished id in one array in memory and
filters rows after reading them, so a restart would download all images again.
"""

from vsa_ray.datasets.cluster import configure, each, model_workers
from vsa_ray.datasets.making import Stage, make_table
from vsa_ray.datasets.tables import training_images

__all__ = ["Stage", "configure", "each", "make_table", "model_workers", "training_images"]
