"""Ragged tables to tensors: things of different lengths lie end to end, beside their lengths."""

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

Seen = Literal["all", "boxes", "whole_image"]
"""Which regions of its images a model sees."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of several things end to end: regions of images, words of sentences."""

    rows: Tensor
    """(P, ...), all rows of the first thing, then all of the second, ..."""

    lengths: Tensor
    """(B,) int64, rows of each thing."""

    @classmethod
    def of(cls, arrays: Sequence[npt.NDArray[np.generic]]) -> Self:
        """The given arrays end to end; at least one, equal but for their first axis."""
        lengths = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
        return cls(torch.from_numpy(np.concatenate(arrays)), lengths)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.rows.to(device), self.lengths.to(device))

    def split(self) -> list[Tensor]:
        """The rows of each thing: views."""
        return list(self.rows.split(self.lengths.tolist()))


def seen(features: Ragged, which: Seen) -> Ragged:
    """The regions that a model sees.

    Args:
        features: rows of a `regions` table, so the first of each image is of the whole of it.
    """
    if which == "all":
        return features
    rows = [image[seen_of(len(image), which)] for image in features.split()]
    lengths = torch.tensor([len(own) for own in rows], device=features.lengths.device)
    return Ragged(torch.cat(rows), lengths)


def seen_of(regions: int, which: Seen) -> slice:
    """Those of one image; without a box it is seen as a whole."""
    first = 1 if which == "boxes" and regions > 1 else 0
    return slice(first, 1 if which == "whole_image" else regions)


def features(regions: pa.Table) -> Ragged:
    """Features of a `regions` table: rows (P, F) float16, lengths (B,).

    Raises:
        ValueError: the rows do not all have features of one width.
    """
    return Ragged.of(schema.matrices(regions["features"], feature_dim(regions)))


def feature_dim(regions: pa.Table) -> int:
    """Width F of the CNN feature, read from the first region there is.

    Raises:
        UserError: there is no region at all.
    """
    widths = regions["features"].combine_chunks().flatten().value_lengths()
    if not len(widths):
        raise UserError("the regions table has no features: did every image fail?")
    return int(widths[0].as_py())


def whole_image_features(regions: pa.Table) -> npt.NDArray[np.float16]:
    """(B, F) features of region 0."""
    images = schema.matrices(regions["features"], feature_dim(regions))
    return np.stack([image[0] for image in images]).astype(np.float16, copy=False)
