"""Ragged tables as tensors: rows of different lengths are concatenated, and kept with lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from vsa_ray import schema
from vsa_ray.errors import UserError

DETECTIONS = ("boxes", "scores", "width", "height")
"""Columns of a `regions` table that `detections` needs."""

DETECTION_DIM = 6
"""Width of `detections`: four coordinates of the box, its log area, and its log confidence."""

LOG_AREA, LOG_CONFIDENCE = 4, 5
"""Columns of `detections`."""

LEAST_SHARE = 1e-4
"""Smaller shares and confidences are raised to this value: the log of 0 is not finite."""

Seen = Literal["all", "boxes", "whole_image"]
"""Which regions of its images a model sees."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """Concatenated rows of several items: regions of images, or words of sentences."""

    rows: Tensor
    """(P, ...), all rows of the first item, then all of the second, ..."""

    lengths: Tensor
    """(B,) int64, number of rows of each item."""

    @classmethod
    def of(cls, arrays: Sequence[npt.NDArray[np.generic]]) -> Self:
        """Concatenate arrays: at least one, with shapes that differ only in the first axis."""
        lengths = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
        return cls(torch.from_numpy(np.concatenate(arrays)), lengths)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.rows.to(device), self.lengths.to(device))

    def split(self) -> list[Tensor]:
        """The rows of each item, as views."""
        return list(self.rows.split(self.lengths.tolist()))


def seen(features: Ragged, which: Seen) -> Ragged:
    """The regions that a model sees.

    Args:
        features: rows of a `regions` table, so the first of each image is the whole image.
    """
    if which == "all":
        return features
    rows = [image[seen_of(len(image), which)] for image in features.split()]
    lengths = torch.tensor([len(own) for own in rows], device=features.lengths.device)
    return Ragged(torch.cat(rows), lengths)


def seen_of(regions: int, which: Seen) -> slice:
    """The regions of one image that a model sees; without a box, the whole image."""
    first = 1 if which == "boxes" and regions > 1 else 0
    return slice(first, 1 if which == "whole_image" else regions)


def features(regions: pa.Table, *, with_detections: bool = False) -> Ragged:
    """Features of a `regions` table: rows (P, F) float16, lengths (B,).

    Args:
        with_detections: append `detections`, for a width of F + DETECTION_DIM.

    Raises:
        ValueError: the features do not all have the same width.
    """
    found = Ragged.of(schema.matrices(regions["features"], feature_dim(regions)))
    if not with_detections:
        return found
    beside_P6 = torch.from_numpy(detections(regions)).half()
    return Ragged(torch.cat([found.rows, beside_P6], dim=1), found.lengths)


def detections(regions: pa.Table) -> npt.NDArray[np.float32]:
    """Geometry and confidence of the regions of a `regions` table -> (P, 6).

    The box x1, y1, x2, y2 as fractions of the image's width and height; the log of its share of the
    image's area; the log of the detector's confidence.
    """
    images = np.repeat(np.arange(len(regions)), regions["boxes"].combine_chunks().value_lengths())
    size_P2 = np.stack([regions[name].to_numpy()[images] for name in ("width", "height")], axis=1)
    corners_P22 = _numbers(regions["boxes"], 2).reshape(-1, 2, 2) / size_P2[:, None]
    area_P = (corners_P22[:, 1] - corners_P22[:, 0]).prod(axis=1)
    shares_2P = np.stack([area_P, _numbers(regions["scores"], 1)])
    logs_2P = np.log(np.maximum(shares_2P, LEAST_SHARE))
    found_P6 = np.concatenate([corners_P22.reshape(-1, 4), logs_2P.T], axis=1)
    return found_P6.astype(np.float32)


def _numbers(column: pa.ChunkedArray, depth: int) -> npt.NDArray[np.float32]:
    """All numbers of a column of (nested) lists, flattened."""
    array = column.combine_chunks()
    for _ in range(depth):
        array = array.flatten()
    numbers: npt.NDArray[np.float32] = array.to_numpy(zero_copy_only=False)
    return numbers


def feature_dim(regions: pa.Table) -> int:
    """Width F of the CNN features, read from the first region.

    Raises:
        UserError: there are no regions.
    """
    for chunk in regions["features"].chunks:
        if len(widths := chunk.flatten().value_lengths()):
            return int(widths[0].as_py())
    raise UserError("the regions table has no features: did every image fail?")


def whole_image_features(regions: pa.Table) -> npt.NDArray[np.float16]:
    """(B, F) features of region 0."""
    images = schema.matrices(regions["features"], feature_dim(regions))
    return np.stack([image[0] for image in images]).astype(np.float16, copy=False)
