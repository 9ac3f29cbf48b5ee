"""Rows of URIs or bytes to decoded images; the broken ones stay, marked with a reason.

A corpus of millions always holds some images that are missing, cut short, or no image at all. None
of them stops a job: `LoadImages` turns every row into pixels or into a status and an error, and the
stages after it pass such rows on.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
from PIL import ExifTags, Image, UnidentifiedImageError

from vsa_ray import storage

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

Kind = Literal[
    "missing",
    "access_denied",
    "timeout",
    "empty",
    "not_an_image",
    "truncated",
    "too_large",
    "unreadable",
]

LOADED = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "split": pa.string(),
        "width": pa.int32(),  # 0 where status is not "ok"
        "height": pa.int32(),
        "pixels": pa.large_binary(),  # `Pixels` as bytes; a batch may well exceed binary's 2 GiB
        "status": pa.string(),  # "ok" or a `Kind`
        "error": pa.string(),  # null where status is "ok"
    }
)
"""What `LoadImages` returns. It lives in memory only: pixels are never written."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""What is decoded. Pillow knows more, some of it risky on strangers' files (EPS runs a program)."""

PILLOW_LIMIT = 2 * 89_478_485
"""Pixels of an image that Pillow itself refuses."""

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error)
"""What Pillow's decoders raise on damaged files: found by damaging files of every format."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what undoes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    downloads: int = 16
    """Images that a worker fetches at once."""

    max_pixels: int = 64_000_000
    """Larger images are refused by their header, before they take 3 bytes of memory a pixel."""

    max_bytes: int = 100_000_000
    """Larger files are refused."""

    def __post_init__(self) -> None:
        for name in ("downloads", "max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"ImageConfig.{name} must be >= 1, got {getattr(self, name)}")
        if self.max_pixels > PILLOW_LIMIT:
            raise ValueError(
                f"ImageConfig.max_pixels must be <= {PILLOW_LIMIT} (Pillow's own limit), "
                f"got {self.max_pixels}"
            )


class ImageError(Exception):
    """An image that cannot be had: its `kind`, for counting, and a message, for people."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(kind, message)  # both, or it does not pickle
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


class LoadImages:
    """Stage: an images table in, optionally with its files in a column `bytes`; `LOADED` out."""

    def __init__(self, config: ImageConfig) -> None:
        self.config = config
        self._reader = _Reader(config.max_bytes)

    def __call__(self, table: pa.Table) -> pa.Table:
        with ThreadPoolExecutor(self.config.downloads) as pool:
            # Only waiting for storage is worth threads: decoding stays on this one, so that a
            # worker uses the CPU it asked for.
            reads: list[Callable[[], bytes]]
            if "bytes" in table.column_names:
                reads = [partial(_given, data) for data in table["bytes"].to_pylist()]
            else:
                reads = [pool.submit(self._reader, uri).result for uri in table["uri"].to_pylist()]
            loaded = [self._decode(read) for read in reads]
        columns = {name: table[name] for name in ("image_id", "uri", "split")}
        images = [image if isinstance(image, np.ndarray) else None for image in loaded]
        errors = [image if isinstance(image, ImageError) else None for image in loaded]
        columns |= {
            "width": [0 if image is None else image.shape[1] for image in images],
            "height": [0 if image is None else image.shape[0] for image in images],
            "pixels": [None if image is None else image.data for image in images],
            "status": ["ok" if error is None else error.kind for error in errors],
            "error": [None if error is None else str(error) for error in errors],
        }
        return pa.table(columns, schema=LOADED)

    def _decode(self, read: Callable[[], bytes]) -> Pixels | ImageError:
        try:
            return decode(read(), max_pixels=self.config.max_pixels)
        except ImageError as error:
            return error


def pixels_of(table: pa.Table) -> list[Pixels | None]:
    """Images of a `LOADED` table, None for the failed ones: read-only views, nothing is copied."""
    views: list[Pixels | None] = []
    for batch in table.to_batches():
        _, offsets, data = batch["pixels"].buffers()  # a scalar's as_buffer would be a copy
        starts = np.frombuffer(offsets, np.int64)[batch["pixels"].offset :]
        sizes = zip(batch["height"].to_pylist(), batch["width"].to_pylist(), strict=True)
        views += [
            np.frombuffer(data, np.uint8, h * w * 3, start).reshape(h, w, 3) if h else None
            for start, (h, w) in zip(starts, sizes, strict=False)  # starts ends with an end
        ]
    return views


def load(uri: str, config: ImageConfig) -> Pixels:
    """One image.

    Raises:
        ImageError: it cannot be had.
    """
    return decode(_Reader(config.max_bytes)(uri), max_pixels=config.max_pixels)


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """An image file's pixels: its first frame, upright by EXIF, 8-bit RGB, transparency on white.

    Raises:
        ImageError: empty, not_an_image, too_large, truncated, or unreadable.
    """
    if not data:
        raise ImageError("empty", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError("too_large", f"{width} x {height} is over {max_pixels} pixels")
            image.load()
            return np.asarray(_upright(_rgb(image), image))
    except UnidentifiedImageError as error:
        message = f"no header of a known format; the file starts with {data[:8]!r}"
        raise ImageError("not_an_image", message) from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except DAMAGED as error:
        kind: Kind = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise ImageError(kind, f"the file is damaged: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to white
        grey = np.clip(np.asarray(image) // 256, 0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _upright(image: Image.Image, original: Image.Image) -> Image.Image:
    orientation = original.getexif().get(ExifTags.Base.Orientation)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


class _Reader:
    """Reads files, from several threads. Keeps a file system a bucket: each costs a round trip."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._buckets: dict[str, pyarrow.fs.FileSystem] = {}
        self._lock = threading.Lock()

    def __call__(self, uri: str) -> bytes:
        try:
            filesystem, path = self._locate(uri)
            with filesystem.open_input_stream(path) as stream:
                data: bytes = stream.read(self.max_bytes + 1)
        except (OSError, storage.StorageError, pa.ArrowInvalid) as error:
            raise ImageError(_kind(error), str(error)) from error
        if len(data) > self.max_bytes:
            raise ImageError("too_large", f"{uri} is over {self.max_bytes} bytes")
        return data

    def _locate(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        if not uri.startswith("s3://"):
            return storage.resolve(uri)
        path = uri.removeprefix("s3://")
        bucket = path.partition("/")[0]
        with self._lock:
            if bucket not in self._buckets:
                self._buckets[bucket], _ = storage.resolve(f"s3://{bucket}")
        return self._buckets[bucket], path


def _kind(error: Exception) -> Kind:
    # S3's own errors all arrive as a plain OSError: its text is all there is to tell them apart.
    text = str(error).lower()
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, PermissionError) or "access_denied" in text:
        return "access_denied"
    if isinstance(error, TimeoutError) or "timeout" in text:
        return "timeout"
    return "unreadable"


def _given(data: bytes | None) -> bytes:
    if data is None:
        raise ImageError("missing", "its row has no bytes")
    return data
