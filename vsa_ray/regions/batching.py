"""Images of one shape go through a network together, so that none is padded for another's sake."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vsa_ray.images import Pixels


def alike(keys: Sequence[Hashable], limit: int) -> Iterator[list[int]]:
    """Positions of equal keys, at most `limit` at a time; every position once."""
    groups: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    for group in groups.values():
        for start in range(0, len(group), limit):
            yield group[start : start + limit]


def to_tensor(image: Pixels) -> Tensor:
    """(3, H, W), uint8."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)  # a copy: torch warns of read-only ones


def resize(image: Pixels, height: int, width: int) -> Tensor:
    """(3, height, width), uint8, without the aliasing of plain bilinear."""
    size = (height, width)
    return F.interpolate(to_tensor(image)[None], size, mode="bilinear", antialias=True)[0]
