"""Generated pictures: objects with light and shadow on a patterned background."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from vsa_ray.corpora.scene_plans import BACKGROUNDS, COLOURS, Box, Scene, Thing
from vsa_ray.corpora.scene_shapes import Colour, Part, extent, turned

SCALE = 4
"""Objects are drawn this many times larger and then reduced, which smooths their edges."""

SHADOW = (3, 4)
"""Pixels to the right and downwards."""

Pixels = npt.NDArray[np.float32]
"""(height, width, 3) from 0 to 255, or (height, width) from 0 to 1."""


def paint(scene: Scene) -> Image.Image:
    rng = np.random.default_rng(scene.texture)
    pixels = _background(scene, rng)
    for thing in scene.things:
        _lay(pixels, thing)
    pixels += rng.normal(0, 3, pixels.shape).astype(np.float32)  # the grain of a photograph
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _background(scene: Scene, rng: np.random.Generator) -> Pixels:
    colour = np.array(BACKGROUNDS[scene.colour], dtype=np.float32)
    shares = _pattern(scene.pattern, scene.width, scene.height, rng)[..., None]
    # Centred on the colour, so that a patterned background is as green as a plain one.
    pixels = colour * (0.93 + 0.07 * shares) + (255 - colour) * 0.55 * shares
    x, y = np.meshgrid(np.linspace(-1, 1, scene.width), np.linspace(-1, 1, scene.height))
    light = 1.02 - 0.07 * (x * rng.uniform(-1, 1) + y) - 0.05 * (x**2 + y**2)
    shaded: Pixels = (pixels * light[..., None]).astype(np.float32)
    return shaded


def _pattern(pattern: str, width: int, height: int, rng: np.random.Generator) -> Pixels:
    """How light a pattern is at each pixel, from 0 to 1."""
    period = rng.uniform(20, 34)
    angle = rng.choice([0, np.pi / 4, np.pi / 2, -np.pi / 4])
    y, x = np.mgrid[:height, :width] + rng.uniform(0, period, (2, 1, 1))
    across = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
    along = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period
    match pattern:
        case "striped":
            waves = np.sin(across) * 4
        case "wavy":
            waves = np.sin(across + 1.6 * np.sin(along * 0.6)) * 4
        case "checked":
            waves = np.sin(across) * np.sin(along) * 8
        case "dotted":
            waves = (np.cos(across) + np.cos(along) - 0.9) * 5
        case "cloudy":
            waves = (_clouds(width, height, rng) - 0.5) * 6
        case _:
            waves = np.full((height, width), -0.6)
    lights: Pixels = ((np.tanh(waves) + 1) / 2).astype(np.float32)
    return lights


def _clouds(width: int, height: int, rng: np.random.Generator) -> Pixels:
    """Soft noise from 0 to 1; each finer octave is about half as strong."""
    total = np.zeros((height, width), dtype=np.float32)
    for cells, weight in ((4, 0.55), (8, 0.3), (16, 0.15)):
        grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return total


def _lay(pixels: Pixels, thing: Thing) -> None:
    x1, y1, x2, y2 = thing.box
    parts = turned(thing.shape, thing.tilt, mirrored=thing.mirrored)
    colours, mask = _draw(parts, COLOURS[thing.colour], x2 - x1, y2 - y1)
    _darken(pixels, mask, thing.box)
    place = pixels[y1:y2, x1:x2]
    place += (colours * _relief(mask)[..., None] - place) * mask[..., None]


def _draw(parts: list[Part], colour: Colour, width: int, height: int) -> tuple[Pixels, Pixels]:
    """The colours of an object that fills width x height, and its coverage mask."""
    size = (width * SCALE, height * SCALE)
    picture, mask = Image.new("RGB", size, colour), Image.new("L", size)
    scale = (np.array(size) - 1) / extent(parts)
    for tone, points in parts:
        corners = [(float(x), float(y)) for x, y in points * scale]
        ImageDraw.Draw(picture).polygon(corners, fill=_toned(colour, tone))
        ImageDraw.Draw(mask).polygon(corners, fill=255)
    reduced = np.asarray(picture.reduce(SCALE), dtype=np.float32)
    return reduced, _shares(mask.reduce(SCALE))


def _toned(colour: Colour, tone: str | Colour) -> Colour:
    if not isinstance(tone, str):
        return tone
    towards, share = {"main": (0, 0.0), "dark": (0, 0.32), "light": (255, 0.55)}[tone]
    r, g, b = (round(c + (towards - c) * share) for c in colour)
    return r, g, b


def _relief(mask: Pixels) -> Pixels:
    """Brightness of an object at each pixel: raised, lit from the top left, with a darker rim."""
    blurred = [_blur(np.pad(mask, 16), radius)[16:-16, 16:-16] for radius in (1.2, 7)]
    down, right = np.gradient(blurred[1])
    rim = np.clip(1.7 * blurred[0] - 0.7, 0, 1)
    brightness: Pixels = (0.72 + 0.28 * rim) * (1 + 3.2 * (down + right))
    return brightness


def _darken(pixels: Pixels, mask: Pixels, box: Box) -> None:
    """Draw the shadow of an object."""
    height, width = mask.shape
    shadow = np.zeros(pixels.shape[:2], dtype=np.float32)
    x, y = box[0] + SHADOW[0], box[1] + SHADOW[1]
    target = shadow[y : y + height, x : x + width]
    target[:] = mask[: target.shape[0], : target.shape[1]]
    pixels *= 1 - 0.3 * _blur(shadow, 3)[..., None]


def _blur(values: Pixels, radius: float) -> Pixels:
    image = Image.fromarray((values * 255).astype(np.uint8))
    return _shares(image.filter(ImageFilter.GaussianBlur(radius)))


def _shares(image: Image.Image) -> Pixels:
    shares: Pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return shares
