"""Decode a file's bytes to pixels: 8-bit RGB, upright, on a white background.

How special cases are handled:

    16 or 32 bit grey, floats         scaled to 8 bits, see `_grey`; never clipped to white
    palette, alpha, 1 bit             composited on white
    CMYK                              Pillow's plain conversion
    animation, several pages          the first frame
    EXIF orientation                  applied; broken EXIF counts as none
    colour profile                    ignored: networks were trained on files treated as sRGB
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from vsa_ray.images.failures import ImageError, Kind

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""Formats to decode. Pillow knows more, some unsafe for untrusted files (EPS runs a program)."""

PILLOW_LIMIT = 2 * 89_478_485
"""Number of pixels above which Pillow itself refuses an image."""

DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, zlib.error),
    *(ArithmeticError, AssertionError, AttributeError, BufferError, LookupError, TypeError),
)
"""What Pillow's decoders raise on damaged files: found by corrupting files of every format, and, on
the second line, by reading what their code does not guard against."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the picture upright."""

_SWAPPING = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
"""The operations that swap width and height."""

_FULL_SCALE = (1.0, 255.0, 65535.0)
"""Possible white levels of float pictures: the smallest that is not below the picture's maximum."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image."""

    pixels: Pixels
    width: int
    """Width of the upright picture in the file. `pixels` may be smaller, never larger."""

    height: int


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """Decode an image file at full size.

    Raises:
        ImageError: as `decode_within`.
    """
    return decode_within(data, max_pixels=max_pixels, max_side=max_pixels).pixels


def decode_within(data: bytes, *, max_pixels: int, max_side: int) -> Picture:
    """Decode an image file, with pixels downscaled so that no side exceeds `max_side`.

    Raises:
        ImageError: empty, not_an_image, too_large, truncated, or unreadable.
    """
    if not data:
        raise ImageError("empty", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            _check_size(width, height, max_pixels)
            _shrink_while_decoding(image, max_side)
            image.load()
            turn = _UPRIGHT.get(_orientation(image))  # after load: a PNG's may follow its pixels
            shrunk = _shrunk(_eight_bits(image), max_side)
            pixels = np.asarray(_upright(_on_white(shrunk), turn))
    except UnidentifiedImageError as error:
        message = f"no header of a known format; the file starts with {data[:8]!r}"
        raise ImageError("not_an_image", message) from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except MemoryError as error:
        raise ImageError("too_large", "not enough memory to decode it") from error
    except DAMAGED as error:
        kind: Kind = "truncated" if "truncated" in str(error).lower() else "unreadable"
        reason = str(error) or type(error).__name__
        raise ImageError(kind, f"the file is damaged: {reason}") from error
    if turn in _SWAPPING:
        width, height = height, width
    return Picture(pixels, width, height)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if not width * height:
        raise ImageError("unreadable", f"{width} x {height} is an empty picture")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} is over {max_pixels} pixels")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGED:
        return 1


def _shrink_while_decoding(image: Image.Image, max_side: int) -> None:
    """JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, with less time and memory."""
    longest = max(image.size)
    if image.format == "JPEG" and longest > max_side:
        wanted = [-(-side * max_side // longest) for side in image.size]  # rounded up
        image.draft(None, (wanted[0], wanted[1]))


def _shrunk(image: Image.Image, max_side: int) -> Image.Image:
    longest = max(image.size)
    if longest <= max_side:
        return image
    width, height = (max(1, round(side * max_side / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert to RGB, L, or RGBA if the picture has transparency."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey(np.asarray(image)))
    wanted = "RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _grey(values: npt.NDArray[np.generic]) -> Pixels:
    """Scale to 8 bits (H, W). 16-bit values are divided by 256, so dark pictures stay dark; larger
    integers are scaled by 65535 or their maximum; floats by the smallest usual white level."""
    if values.dtype.itemsize <= 2:
        return (values.astype(np.uint16) >> 8).astype(np.uint8)
    floats = np.nan_to_num(values.astype(np.float32), nan=0, posinf=0, neginf=0)
    top = float(floats.max(initial=0))
    scales = _FULL_SCALE if values.dtype.kind == "f" else _FULL_SCALE[-1:]
    white = next((scale for scale in scales if top <= scale), top)
    return (floats.clip(0, white) * np.float32(255 / white)).round().astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)
