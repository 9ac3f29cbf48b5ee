"""Group images by shape, so that they go through a network together without padding."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vsa_ray.images import Pixels


def alike(keys: Sequence[Hashable], limit: int) -> Iterator[list[int]]:
    """Groups of positions with equal keys, at most `limit` each; every position once."""
    groups: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    for group in groups.values():
        for start in range(0, len(group), limit):
            yield group[start : start + limit]


def to_tensor(image: Pixels) -> Tensor:
    """(3, H, W), uint8."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)  # torch warns about read-only arrays


def resize(image: Pixels, height: int, width: int) -> Tensor:
    """Resize to (3, height, width), uint8, by bilinear interpolation with antialiasing."""
    size = (height, width)
    return F.interpolate(to_tensor(image)[None], size, mode="bilinear", antialias=True)[0]
