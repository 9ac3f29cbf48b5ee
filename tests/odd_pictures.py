"""Pictures as strangers keep them: broken, odd, or lying; and what has to become of each.

`write(folder)` puts them below a folder or bucket. A good one is told by its size and the
colours at some of its pixels.
"""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from vsa_ray import storage

Colour = tuple[int, int, int]

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

WIDTH, HEIGHT = 48, 32


@dataclass(frozen=True, slots=True)
class Good:
    """Can be had."""

    size: tuple[int, int] = (WIDTH, HEIGHT)
    """Width and height."""

    colours: tuple[tuple[int, int, Colour], ...] = ((4, 4, BLUE), (44, 4, RED), (4, 28, RED))
    """x, y, and the colour there."""

    within: int = 0
    """How far off each colour may be."""


LOSSY = Good(within=12)


@dataclass(frozen=True, slots=True)
class Bad:
    """Becomes a row with this status."""

    status: str
    error: str = ""
    """Part of what it says."""


@dataclass(frozen=True, slots=True)
class Odd:
    """One of them."""

    name: str
    """Of its file."""

    expected: Good | Bad
    make: Callable[[], bytes] | None = None
    """Its bytes; None: see `place`."""

    place: Callable[[Path], None] | None = None
    """Puts it on a disk, where it is no plain file: a broken link, a directory, a pipe."""


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Red but for the blue upper left quarter, so that every turn of it shows."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, 0, width // 2, height // 2))
    return image


def file(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@cache
def noisy(format: str, **options: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    return file(Image.fromarray(noise), format, **options)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], colour: int = 2) -> bytes:
    """A PNG of these chunks, which may hold less than its header claims."""
    header = struct.pack(">II5B", width, height, 8, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large, in 60 bytes."""
    return png(width, height, (b"IDAT", zlib.compress(b"")))


def turned(orientation: int) -> bytes:
    """As a camera stores it: `orientation` brings it back to upright."""
    undo = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file(undo[orientation](picture()), "JPEG", quality=95, exif=exif, subsampling=0)


def with_exif(exif: bytes) -> bytes:
    return file(picture(), "JPEG", quality=95, subsampling=0, exif=b"Exif\0\0" + exif)


def cmyk(*, profile: bool = False) -> bytes:
    colours = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    colours[...] = (0, 255, 255, 0)  # red ink
    colours[: HEIGHT // 2, : WIDTH // 2] = (255, 255, 0, 0)
    options = {"icc_profile": b"not a profile"} if profile else {}
    return file(Image.fromarray(colours, "CMYK"), "JPEG", quality=95, **options)


def grey(values: list[list[float]], kind: type[np.generic], format: str = "TIFF") -> bytes:
    return file(Image.fromarray(np.array(values, kind)), format)


def palette(transparency: int | bytes | None = None) -> bytes:
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (0, 0, WIDTH // 2, HEIGHT // 2))
    return file(image, **({} if transparency is None else {"transparency": transparency}))


def half_seen() -> bytes:
    """Red at a fifth of its strength, nothing at all in the upper left."""
    image = Image.new("RGBA", (WIDTH, HEIGHT), (255, 0, 0, 51))
    image.paste((0, 0, 255, 0), (0, 0, WIDTH // 2, HEIGHT // 2))
    return file(image)


def animated(format: str, **options: object) -> bytes:
    others = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("black", "white")]
    return file(picture(), format, save_all=True, append_images=others, **options)


def damaged_inside(data: bytes, mark: bytes, after: int) -> bytes:
    at = data.index(mark) + after
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def gif_bomb() -> bytes:
    """Its screen claims 65535 x 65535."""
    data = bytearray(file(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def huge_frame() -> bytes:
    """A GIF whose screen is small and whose first frame is not."""
    data = bytearray(file(Image.new("L", (8, 8)), "GIF"))
    at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[at + 5 : at + 9] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def profiled() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return file(picture(), icc_profile=profile)


def text_bomb() -> bytes:
    """A PNG with a compressed text of 20 MB in a tenth of a percent of it."""
    text = zlib.compress(b"\0" * 20_000_000, 9)
    pixels = zlib.compress(b"\0" + bytes(3))
    return png(1, 1, (b"zTXt", b"Comment\0\0" + text), (b"IDAT", pixels))


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


GREYS: tuple[tuple[int, int, Colour], ...] = ((0, 0, BLACK), (1, 0, (100,) * 3), (2, 0, WHITE))
HALF_LOST = ((4, 4, WHITE), (44, 28, (255, 204, 204)))
SEEN_THROUGH = ((4, 4, WHITE), (44, 4, RED), (4, 28, RED))
HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0"/></svg>'

FORMATS = [
    Odd("good.jpg", LOSSY, lambda: file(picture(), "JPEG", quality=95, subsampling=0)),
    Odd("good.png", Good(), lambda: file(picture())),
    Odd("good.webp", LOSSY, lambda: file(picture(), "WEBP", quality=95)),
    Odd("lossless.webp", Good(), lambda: file(picture(), "WEBP", lossless=True)),
    Odd("good.gif", Good(), lambda: file(picture(), "GIF")),
    Odd("good.bmp", Good(), lambda: file(picture(), "BMP")),
    Odd("good.tif", Good(), lambda: file(picture(), "TIFF")),
    Odd("lzw.tif", Good(), lambda: file(picture(), "TIFF", compression="tiff_lzw")),
    Odd("jpeg.tif", LOSSY, lambda: file(picture(), "TIFF", compression="jpeg", quality=95)),
    Odd("good.avif", LOSSY, lambda: file(picture(), "AVIF", quality=95)),
    Odd("good.ppm", Good(), lambda: file(picture(), "PPM")),
    Odd("progressive.jpg", LOSSY, lambda: file(picture(), "JPEG", progressive=True, quality=95)),
    Odd("two.mpo.jpg", LOSSY, lambda: animated("MPO", quality=95)),
    Odd("png-named.jpg", Good(), lambda: file(picture())),
    Odd("no-extension", Good(), lambda: file(picture())),
    Odd("a b.png", Good(), lambda: file(picture())),
    Odd("what?.png", Good(), lambda: file(picture())),
    Odd("what?size=large&v=2.png", Good(), lambda: file(picture())),
    Odd("no#1.png", Good(), lambda: file(picture())),
    Odd("100%25 sure.png", Good(), lambda: file(picture())),
    Odd("plus+and&.png", Good(), lambda: file(picture())),
    Odd("großes Bild 写真 📷.png", Good(), lambda: file(picture())),
    Odd("AWS Error SLOW_DOWN during timeout.png", Good(), lambda: file(picture())),
    Odd("deep/er/still.png", Good(), lambda: file(picture())),
]
"""What is decoded, under names that are hard to write."""

COLOURS = [
    Odd("grey.png", Good(colours=((0, 0, (90,) * 3),)), lambda: file(Image.new("L", (48, 32), 90))),
    Odd("bits.png", Good((3, 2), ((0, 0, WHITE),)), lambda: file(Image.new("1", (3, 2), 1))),
    Odd("bits.tif", Good((9, 2), ((8, 1, BLACK),)), lambda: file(Image.new("1", (9, 2)), "TIFF")),
    Odd("palette.png", Good(), palette),
    Odd("palette-entry-unseen.png", Good(colours=SEEN_THROUGH), lambda: palette(1)),
    Odd("palette-alpha.png", Good(colours=HALF_LOST), lambda: palette(bytes([51, 0]))),
    Odd("alpha.png", Good(colours=HALF_LOST), half_seen),
    Odd(
        "grey-alpha.png",
        Good((2, 2), ((0, 0, (204,) * 3),)),
        lambda: file(Image.new("LA", (2, 2), (0, 51))),
    ),
    Odd(
        "colour-unseen.png",
        Good(colours=SEEN_THROUGH),
        lambda: file(picture(), transparency=BLUE),
    ),
    Odd(
        "unseen.gif",
        Good(colours=SEEN_THROUGH),
        lambda: file(Image.open(io.BytesIO(palette(1))), "GIF", transparency=1),
    ),
    Odd("cmyk.jpg", LOSSY, cmyk),
    Odd("cmyk-broken-profile.jpg", LOSSY, lambda: cmyk(profile=True)),
    Odd("cmyk.tif", Good(), lambda: file(Image.open(io.BytesIO(cmyk())).convert("CMYK"), "TIFF")),
    Odd("profile.png", Good(), profiled),
    Odd(
        "16-bit.png",
        Good((3, 1), GREYS),
        lambda: grey([[0, 100 * 257, 65535]], np.uint16, "PNG"),
    ),
    Odd(
        "16-bit-dark.png",
        Good((2, 1), ((1, 0, (3,) * 3),)),
        lambda: grey([[0, 3 * 257]], np.uint16, "PNG"),
    ),
    Odd("16-bit.tif", Good((3, 1), GREYS), lambda: grey([[0, 100 * 257, 65535]], np.uint16)),
    Odd("32-bit.tif", Good((3, 1), GREYS), lambda: grey([[-7, 100 * 257, 65535]], np.int32)),
    Odd(
        "32-bit-large.tif",
        Good((3, 1), GREYS),
        lambda: grey([[0, 100_000_000, 255_000_000]], np.int32),
    ),
    Odd("float-to-1.tif", Good((3, 1), GREYS), lambda: grey([[0, 100 / 255, 1]], np.float32)),
    Odd("float-to-255.tif", Good((3, 1), GREYS), lambda: grey([[0, 100, 255]], np.float32)),
    Odd(
        "float-to-65535.tif",
        Good((3, 1), GREYS),
        lambda: grey([[0, 100 * 257, 65535]], np.float32),
    ),
    Odd(
        "float-with-nan.tif",
        Good((4, 1), (*GREYS, (3, 0, BLACK))),
        lambda: grey([[-np.inf, 100 / 255, 1, np.nan]], np.float32),
    ),
    Odd(
        "float-zero.tif",
        Good((2, 1), ((0, 0, BLACK), (1, 0, BLACK))),
        lambda: grey([[0, 0]], np.float32),
    ),
    Odd("ycbcr.tif", LOSSY, lambda: file(picture().convert("YCbCr"), "TIFF")),
]
"""Every way to say a colour."""

SHAPES = [
    *(
        Odd(f"exif-{orientation}.jpg", LOSSY, lambda orientation=orientation: turned(orientation))
        for orientation in range(1, 9)
    ),
    Odd("exif-9.jpg", LOSSY, lambda: with_exif(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03" + b"\t" * 8)),
    Odd("exif-broken.jpg", LOSSY, lambda: with_exif(b"MM\0*\xff\xff\xff\xff")),
    Odd("exif-junk.jpg", LOSSY, lambda: with_exif(b"\xff" * 100)),
    Odd("exif-huge.jpg", LOSSY, lambda: with_exif(b"II*\0\x08\0\0\0\0\0" + bytes(65_000))),
    Odd("animated.gif", Good(), lambda: animated("GIF")),
    Odd("animated.png", Good(), lambda: animated("PNG")),
    Odd("animated.webp", Good(), lambda: animated("WEBP", lossless=True)),
    Odd("many-pages.tif", Good(), lambda: animated("TIFF")),
    Odd(
        "300-pages.tif",
        Good((1, 1), ((0, 0, RED),)),
        lambda: file(
            Image.new("RGB", (1, 1), RED),
            "TIFF",
            save_all=True,
            append_images=[Image.new("RGB", (1, 1))] * 300,
        ),
    ),
    Odd("one-pixel.png", Good((1, 1), ((0, 0, RED),)), lambda: file(Image.new("RGB", (1, 1), RED))),
    Odd("one-pixel.jpg", Good((1, 1), ((0, 0, RED),), 4), lambda: file(picture(1, 1), "JPEG")),
    Odd("two-pixels.gif", Good((1, 2), ((0, 1, RED),)), lambda: file(picture(1, 2), "GIF")),
    Odd("wide.png", Good((3000, 1), ((2999, 0, RED),)), lambda: file(picture(3000, 1))),
    Odd("tall.png", Good((1, 3000), ((0, 2999, RED),)), lambda: file(picture(1, 3000))),
    Odd("flat.jpg", Good((9000, 3), ((8999, 2, RED),), 12), lambda: file(picture(9000, 3), "JPEG")),
    Odd(
        "large.png",
        Good((3001, 2003), ((0, 0, BLUE), (3000, 0, RED), (0, 2002, RED))),
        lambda: file(picture(3001, 2003), compress_level=1),
    ),
    Odd(
        "large.jpg",
        Good((4003, 3001), ((0, 0, BLUE), (4002, 0, RED), (0, 3000, RED)), 12),
        lambda: file(picture(4003, 3001), "JPEG", quality=95, subsampling=0),
    ),
]
"""Turned, of many frames, and of every size."""

CUT = [
    Odd("half.jpg", Bad("truncated"), lambda: noisy("JPEG")[: len(noisy("JPEG")) // 2]),
    Odd("half.png", Bad("truncated"), lambda: noisy("PNG")[: len(noisy("PNG")) // 2]),
    Odd("half.tif", Bad("truncated"), lambda: noisy("TIFF")[: len(noisy("TIFF")) // 2]),
    Odd("half.gif", Bad("truncated"), lambda: noisy("GIF")[: len(noisy("GIF")) // 2]),
    Odd("half.webp", Bad("unreadable"), lambda: noisy("WEBP")[: len(noisy("WEBP")) // 2]),
    Odd("100-bytes-less.jpg", Bad("truncated"), lambda: noisy("JPEG")[:-100]),
    Odd("end-mark-lost.jpg", Bad("truncated"), lambda: noisy("JPEG")[:-2]),
    Odd("end-mark-lost.png", Good((80, 60), ()), lambda: noisy("PNG")[:-12]),
    Odd("only-a-header.jpg", Bad("not_an_image"), lambda: noisy("JPEG")[:4]),
    Odd("junk-follows.jpg", LOSSY, lambda: file(picture(), "JPEG", quality=95) + b"\0junk" * 999),
    Odd("bad-crc.png", Bad("unreadable"), lambda: damaged_inside(noisy("PNG"), b"IDAT", 20)),
    Odd(
        "bad-header-crc.png", Bad("not_an_image"), lambda: damaged_inside(noisy("PNG"), b"IHDR", 7)
    ),
    Odd("no-pixels.png", Bad("truncated"), lambda: bomb(10, 10)),
    Odd("no-size.png", Bad("not_an_image"), lambda: bomb(0, 10)),
]
"""Cut short or damaged."""

LIARS = [
    Odd("empty.jpg", Bad("empty", "the file is empty"), lambda: b""),
    Odd("404.jpg", Bad("not_an_image", "b'<!DOCTYP'"), lambda: HTML),
    Odd("text.jpg", Bad("not_an_image"), lambda: b"hello\n"),
    Odd("drawing.svg", Bad("not_an_image"), lambda: SVG),
    Odd("pointer.jpg", Bad("not_an_image", "version "), lambda: LFS),
    Odd("zeros.jpg", Bad("not_an_image"), lambda: bytes(5000)),
    Odd("noise.jpg", Bad("not_an_image"), lambda: random.Random(0).randbytes(5000)),
    Odd("program.eps", Bad("not_an_image"), lambda: file(picture(), "EPS")),
    Odd("book.pdf", Bad("not_an_image"), lambda: file(picture(), "PDF")),
    Odd("bomb.png", Bad("too_large", "2500000000 pixels"), lambda: bomb(50_000, 50_000)),
    Odd("large-bomb.png", Bad("too_large"), lambda: bomb(2**31 - 1, 2**31 - 1)),
    Odd("bomb.gif", Bad("too_large"), gif_bomb),
    Odd("huge-frame.gif", Bad("too_large"), huge_frame),
    Odd("bomb.bmp", Bad("too_large"), lambda: file(Image.new("1", (9000, 9000)), "BMP")),
    Odd("text-bomb.png", Bad("unreadable"), text_bomb),
]
"""What they claim to be, they are not."""

PLACES = [
    Odd("gone.jpg", Bad("missing")),
    Odd("no-folder/gone.jpg", Bad("missing")),
]
"""Nothing is there."""

LOCAL = [
    Odd("folder.jpg", Bad("unreadable", "folder.jpg is not a file"), place=Path.mkdir),
    Odd("broken-link.jpg", Bad("missing"), place=_link("nowhere.jpg")),
    Odd("loop.jpg", Bad("unreadable"), place=_link("loop.jpg")),
    Odd("link.jpg", Good(), place=_link("good.png")),
    Odd("pipe.jpg", Bad("unreadable", "not a file"), place=os.mkfifo),
    Odd("good.png/below.jpg", Bad("missing")),
    Odd("n" * 300 + ".jpg", Bad("unreadable")),
]
"""Of a disk alone."""

EVERYWHERE = [*FORMATS, *COLOURS, *SHAPES, *CUT, *LIARS, *PLACES]


def write(folder: str, odds: Sequence[Odd] = EVERYWHERE) -> Iterator[tuple[Odd, str]]:
    """Put them below a folder or bucket; each with its URI. LOCAL goes into a folder only."""
    for odd in odds:
        uri = storage.join(folder, odd.name)
        if odd.make is not None:
            storage.write_bytes(uri, odd.make())
        if odd.place is not None:
            odd.place(Path(uri))
        yield odd, uri
