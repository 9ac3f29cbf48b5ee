"""Finished tables as datasets for training."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import ray.data

from vsa_ray import storage
from vsa_ray.datasets.cluster import IO_CPUS, mapped
from vsa_ray.texts import attach, only_described

BLOCK_BYTES = 16 * 2**20
"""Block size of features, some 300 images. Small, so that training that shuffles within windows
holds few partly used blocks."""


def read(uri: str, columns: Sequence[str] | None = None) -> ray.data.Dataset:
    """The rows of one of our tables, or some of their columns.

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


def training_images(
    regions: str, texts: pa.Table, *, extra_columns: Sequence[str] = (), described: bool = False
) -> ray.data.Dataset:
    """Features and texts (see texts.attach), one row per image, in the order of the files.

    Args:
        extra_columns: other columns of `regions` that are needed.
        described: keep only the features of regions that a text describes.
    """
    rows = read(regions, ["image_id", "features", "status", *extra_columns])
    images = mapped(rows, _attach, texts, described, num_cpus=IO_CPUS)
    images.context.execution_options.preserve_order = True  # the same batches from the same seed
    images.context.target_max_block_size = BLOCK_BYTES
    return images


def _attach(regions: pa.Table, texts: pa.Table, described: bool) -> pa.Table:
    images = attach(regions, texts)
    return only_described(images) if described else images
