"""Finished tables as streams of rows, for trainings."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import ray
import ray.data

from vsa_ray import storage
from vsa_ray.datasets.cluster import IO_CPUS, mapped
from vsa_ray.texts import attach

IN_MEMORY = 0.25
"""Share of the cluster's object store that the images of a training may take to stay in it."""


def read(uri: str, columns: Sequence[str] | None = None) -> ray.data.Dataset:
    """The rows of a table of ours, or some of their columns.

    Raises:
        storage.StorageError: there is no such table.
    """
    files = [file for file in storage.list_files(uri) if file.endswith(".parquet")]
    if not files:
        raise storage.StorageError(f"{uri}: no such table")
    filesystem, _ = storage.resolve(uri)
    return ray.data.read_parquet(
        [storage.resolve(file)[1] for file in files],
        filesystem=filesystem,
        columns=list(columns) if columns else None,
        num_cpus=IO_CPUS,
    )


def training_images(regions: str, texts: pa.Table) -> ray.data.Dataset:
    """Features and texts (see texts.attach), an image a row, to be read once an epoch.

    A corpus that takes a small part of the object store stays there, since starting to read takes
    seconds, every epoch. A larger one is streamed from Parquet every time.
    """
    rows = read(regions, ["image_id", "features", "status"])
    images = mapped(rows, attach, texts, num_cpus=IO_CPUS)
    images.context.execution_options.preserve_order = True  # the same batches from the same seed
    memory: float = ray.cluster_resources()["object_store_memory"]  # type: ignore[no-untyped-call]
    if storage.size(regions) < IN_MEMORY * memory:
        kept: ray.data.Dataset = images.materialize()
        return kept
    return images
