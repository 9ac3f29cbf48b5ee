"""The plan of a generated picture (what is where), made before it is drawn and described."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from vsa_ray.corpora.scene_shapes import SHAPES, extent, turned

COLOURS = {
    "red": (214, 45, 45),
    "orange": (243, 128, 28),
    "yellow": (250, 206, 40),
    "green": (46, 152, 72),
    "blue": (45, 105, 215),
    "purple": (134, 66, 184),
    "pink": (245, 120, 175),
    "black": (44, 44, 52),
    "white": (248, 248, 246),
}
"""Colours of objects."""

BACKGROUNDS = {
    "green": (168, 204, 150),
    "blue": (160, 194, 232),
    "yellow": (242, 225, 156),
    "purple": (200, 180, 226),
    "pink": (244, 196, 212),
    "gray": (184, 186, 192),
    "brown": (200, 172, 142),
}
"""Paler, so that objects stand out."""

PATTERNS = ("plain", "striped", "dotted", "cloudy", "checked", "wavy")
SIZES = ((256, 192), (256, 208), (240, 192), (192, 256), (192, 240))
NUM_THINGS = (1, 2, 2, 2, 3, 3, 3, 3, 4, 4)
LARGE = (0.42, 0.50)
SMALL = (0.25, 0.31)
"""Side lengths of large and small objects, as fractions of the picture's short side."""

GAP = 5
"""Minimum pixels between objects, and between an object and the border."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Thing:
    shape: str
    colour: str
    large: bool
    box: Box
    """x1, y1, x2, y2 of the drawn object; the last two exclusive."""

    tilt: float
    """Degrees; the box is that of the tilted object."""

    mirrored: bool


@dataclass(frozen=True, slots=True)
class Scene:
    width: int
    height: int
    pattern: str
    colour: str
    """Of the background."""

    things: tuple[Thing, ...]
    """Large ones first; no two have the same shape or colour."""

    texture: int
    """Seed of the details that no sentence mentions: where stripes lie, the grain."""


def plan_scene(rng: random.Random) -> Scene:
    width, height = rng.choice(SIZES)
    background = rng.choice(list(BACKGROUNDS))
    num_things = rng.choice(NUM_THINGS)
    num_large = rng.randint(0, min(num_things, 2))  # three would hardly fit
    shapes = rng.sample(list(SHAPES), num_things)
    colours = rng.sample([colour for colour in COLOURS if colour != background], num_things)
    things: list[Thing] | None = None
    while things is None:  # a bad start leaves no room for the last ones
        things = _things(shapes, colours, num_large, (width, height), rng)
    return Scene(
        width=width,
        height=height,
        pattern=rng.choice(PATTERNS),
        colour=background,
        things=tuple(things),
        texture=rng.getrandbits(32),
    )


def _things(
    shapes: list[str], colours: list[str], num_large: int, size: tuple[int, int], rng: random.Random
) -> list[Thing] | None:
    """Objects that do not touch, or None if a few tries find no place for one."""
    things: list[Thing] = []
    for i, (shape, colour) in enumerate(zip(shapes, colours, strict=True)):
        large, tilt, mirrored = i < num_large, rng.uniform(-12, 12), rng.random() < 0.5
        side = rng.uniform(*(LARGE if large else SMALL)) * min(size)
        ratio = extent(turned(shape, tilt, mirrored=mirrored))
        w, h = (int(n) for n in np.rint(ratio * side / np.sqrt(ratio.prod())))
        for _ in range(30):
            x, y = rng.randint(GAP, size[0] - GAP - w), rng.randint(GAP, size[1] - GAP - h)
            box = (x, y, x + w, y + h)
            if not any(_touch(box, thing.box) for thing in things):
                things.append(Thing(shape, colour, large, box, tilt, mirrored))
                break
        else:
            return None
    return things


def _touch(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) + GAP > max(a[0], b[0]) and min(a[3], b[3]) + GAP > max(a[1], b[1])
