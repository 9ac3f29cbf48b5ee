"""The shapes of objects in generated pictures, as polygons.

A shape is a list of parts, back to front, in arbitrary units, with y pointing down. A part's tone
is a variant of the object's colour ("main", "dark", "light"), or a fixed colour.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
Points = npt.NDArray[np.float64]


class Part(NamedTuple):
    tone: str | Colour
    points: Points
    """(n, 2) corners."""


def turned(shape: str, degrees: float, *, mirrored: bool) -> list[Part]:
    """The parts of a rotated shape, moved so that x and y start at 0."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    parts = [(tone, points * [-1 if mirrored else 1, 1] @ turn) for tone, points in SHAPES[shape]]
    corner = np.min([points.min(axis=0) for _, points in parts], axis=0)
    return [Part(tone, points - corner) for tone, points in parts]


def extent(parts: list[Part]) -> Points:
    """(width, height) of parts that start at 0."""
    size: Points = np.max([points.max(axis=0) for _, points in parts], axis=0)
    return size


def _corners(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


def _arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Points:
    """Degrees run clockwise from the right."""
    angles = np.deg2rad(np.linspace(start, stop, 64))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _bar(x1: float, y1: float, x2: float, y2: float) -> Points:
    return _corners((x1, y1), (x2, y1), (x2, y2), (x1, y2))


def _star() -> Points:
    angles = np.deg2rad(np.arange(10) * 36 - 90)
    radii = np.where(np.arange(10) % 2 == 0, 1, 0.46)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 96)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _petal(degrees: float) -> Points:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    petal: Points = _arc(0.64, 0, 0.4, 0.3) @ turn
    return petal


WOOD = (112, 76, 48)
CREAM = (246, 232, 205)

SHAPES: dict[str, list[Part]] = {
    "ball": [
        Part("main", _arc(0, 0, 1, 1)),
        Part("light", _arc(-0.36, -0.42, 0.2, 0.14)),
    ],
    "box": [
        Part("main", _bar(0, 0.3, 1, 1.3)),
        Part("light", _corners((0, 0.3), (0.36, 0), (1.36, 0), (1, 0.3))),
        Part("dark", _corners((1, 0.3), (1.36, 0), (1.36, 1), (1, 1.3))),
    ],
    "star": [Part("main", _star())],
    "heart": [Part("main", _heart())],
    "ring": [Part("main", np.concatenate([_arc(0, 0, 1, 1), _arc(0, 0, 0.56, 0.56, 360, 0)]))],
    "moon": [
        Part("main", np.concatenate([_arc(0, 0, 1, 1, 58, 302), _arc(0.5, 0, 0.85, 0.85, 272, 88)]))
    ],
    "flower": [
        *(Part("main", _petal(degrees)) for degrees in range(0, 360, 60)),
        Part("dark", _arc(0, 0, 0.3, 0.3)),
    ],
    "house": [
        Part(WOOD, _bar(0.72, 0.08, 0.84, 0.5)),
        Part("main", _bar(0.1, 0.48, 0.98, 1.15)),
        Part("dark", _corners((0, 0.52), (0.54, 0), (1.08, 0.52))),
        Part("dark", _bar(0.56, 0.72, 0.78, 1.15)),
        Part("light", _bar(0.22, 0.66, 0.44, 0.88)),
    ],
    "tree": [
        Part(WOOD, _corners((0.43, 0.8), (0.57, 0.8), (0.62, 1.4), (0.38, 1.4))),
        Part("main", _arc(0.24, 0.66, 0.25, 0.25)),
        Part("main", _arc(0.76, 0.66, 0.25, 0.25)),
        Part("main", _arc(0.5, 0.74, 0.3, 0.24)),
        Part("main", _arc(0.5, 0.36, 0.36, 0.36)),
    ],
    "fish": [
        Part("dark", _corners((0.76, 0.5), (1.16, 0.16), (1.06, 0.5), (1.16, 0.84))),
        Part("dark", _corners((0.3, 0.3), (0.62, 0.04), (0.66, 0.34))),
        Part("main", _arc(0.45, 0.5, 0.45, 0.31)),
        Part("light", _arc(0.2, 0.42, 0.075, 0.075)),
        Part((30, 30, 34), _arc(0.19, 0.42, 0.038, 0.038)),
    ],
    "boat": [
        Part(WOOD, _bar(0.56, 0, 0.61, 0.8)),
        Part("main", _corners((0.66, 0.04), (1.14, 0.68), (0.66, 0.68))),
        Part("light", _corners((0.51, 0.14), (0.51, 0.68), (0.12, 0.68))),
        Part("main", _corners((0, 0.76), (1.24, 0.76), (1.0, 1.08), (0.24, 1.08))),
    ],
    "mushroom": [
        Part(CREAM, _corners((0.38, 0.5), (0.62, 0.5), (0.68, 1.05), (0.32, 1.05))),
        Part("main", _arc(0.5, 0.56, 0.5, 0.5, 180, 360)),
        Part("light", _arc(0.5, 0.24, 0.09, 0.08)),
        Part("light", _arc(0.24, 0.42, 0.07, 0.065)),
        Part("light", _arc(0.76, 0.42, 0.07, 0.065)),
    ],
}
