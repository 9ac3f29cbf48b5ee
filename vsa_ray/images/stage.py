"""The loading stage: from rows with the location of an image to rows with pixels or a reason."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa

from vsa_ray import s3
from vsa_ray.images.decoding import PILLOW_LIMIT, Picture, Pixels, decode, decode_within
from vsa_ray.images.failures import ImageError, TransientError, check_responds, place_of
from vsa_ray.images.reading import SOURCES, Found, Read, Source, plan
from vsa_ray.outputs import EXECUTION

logger = logging.getLogger(__name__)

LOADED = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "split": pa.string(),
        "width": pa.int32(),  # of the upright picture; 0 if status is not "ok"
        "height": pa.int32(),
        "pixels_width": pa.int32(),  # of `pixels`: less than `width` if it was downscaled
        "pixels_height": pa.int32(),
        "pixels": pa.large_binary(),  # `Pixels` as bytes; a batch may exceed binary's 2 GiB
        "status": pa.string(),  # "ok" or a `Kind`
        "error": pa.string(),  # null if status is "ok"
    }
)
"""What `LoadImages` returns. It exists only in memory: pixels are never written."""

CANARIES = 3
"""Number of successfully answered images to request again to see whether storage still works."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    downloads: int = field(default=16, metadata=EXECUTION)
    """Concurrent reads per loading task. Raise it if models wait for images from S3."""

    max_pixels: int = 64_000_000
    """Images with more pixels (width x height) are not decoded, and become rows with the status
    too_large: a decoded pixel takes 3 bytes of memory."""

    max_bytes: int = 100_000_000
    """Larger files are not read, and become rows with the status too_large."""

    max_side: int = 1600
    """Longest side, in pixels, that detectors and the backbone see: larger images are downscaled to
    it as they are decoded, to save memory. Boxes are still in pixels of the full image."""

    retry_seconds: float = field(default=60.0, metadata=EXECUTION)
    """Seconds for which reads of a batch are retried while storage is slow, busy or restarting.
    After that the images become failed rows; if nothing can be read, the job stops."""

    def __post_init__(self) -> None:
        for name in ("downloads", "max_pixels", "max_bytes", "max_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"ImageConfig.{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.retry_seconds < float("inf"):
            raise ValueError(
                f"ImageConfig.retry_seconds must be >= 0 and finite, got {self.retry_seconds}"
            )
        if self.max_pixels > PILLOW_LIMIT:
            raise ValueError(
                f"ImageConfig.max_pixels must be <= {PILLOW_LIMIT} (Pillow's own limit), "
                f"got {self.max_pixels}"
            )


@dataclass(frozen=True, slots=True)
class _Failed:
    status: str
    error: str | None


class LoadImages:
    """Stage: an images table in, `LOADED` out, row by row.

    The bytes come from a column `bytes`, or else from storage, see SOURCES. Rows that already have
    a status other than "ok" keep their status and error.

    Raises:
        StorageOutage: storage keeps failing for all images.
        CredentialsError: S3 rejects the credentials.
    """

    def __init__(self, config: ImageConfig) -> None:
        self.config = config

    def __call__(self, table: pa.Table) -> pa.Table:
        failed = _failed_before(table)
        wanted = [row for row in range(len(table)) if row not in failed]
        if "bytes" in table.column_names:
            outcomes = {row: self._decode(self._given(table["bytes"][row])) for row in wanted}
        else:
            outcomes = self._load(_sources(table, wanted))
        pictures = {row: one for row, one in outcomes.items() if isinstance(one, Picture)}
        failed |= {
            row: _Failed(one.kind, str(one))
            for row, one in outcomes.items()
            if isinstance(one, ImageError)
        }
        return _as_table(table, pictures, failed)

    def _load(self, sources: Mapping[int, Source]) -> dict[int, Picture | ImageError]:
        """All rows' outcomes; transient failures are retried together."""
        outcomes: dict[int, Picture | ImageError] = {}
        deadline = time.monotonic() + self.config.retry_seconds
        waiting = dict(sources)
        for wait in s3.waits():
            outcomes |= self._try(waiting)
            passing = {row: one for row, one in outcomes.items() if isinstance(one, TransientError)}
            waiting = {row: sources[row] for row in passing}
            if not waiting or time.monotonic() + wait > deadline:
                break
            reason = next(iter(passing.values()))
            logger.warning("retrying %d images in %.1f s: %s", len(waiting), wait, reason)
            time.sleep(wait)
        self._check_storage(sources, outcomes)
        # Storage works now; retry once more what failed while it may not have.
        return outcomes | self._try(waiting)

    def _try(self, sources: Mapping[int, Source]) -> dict[int, Picture | ImageError]:
        """Try each read once, decoding the first images while the next are being read."""
        reads = plan(sources, self.config.max_bytes)
        with ThreadPoolExecutor(self.config.downloads) as pool:
            # Threads only wait for storage. Decoding stays on this one, so that a worker uses no
            # more CPU than it requested.
            return {
                row: self._decode(data)
                for found in _prefetched(pool, self.config.downloads, reads)
                for row, data in found.items()
            }

    def _given(self, data: pa.BinaryScalar) -> bytes | ImageError:
        if not data.is_valid:
            return ImageError("missing", "its row has no bytes")
        size = data.as_buffer().size
        if size > self.config.max_bytes:
            message = f"it has {size} bytes, which is over {self.config.max_bytes}"
            return ImageError("too_large", message)
        return bytes(data.as_py())

    def _decode(self, data: bytes | ImageError) -> Picture | ImageError:
        if isinstance(data, ImageError):
            return data
        limits = {"max_pixels": self.config.max_pixels, "max_side": self.config.max_side}
        try:
            return decode_within(data, **limits)
        except ImageError as error:
            return error

    def _check_storage(
        self, sources: Mapping[int, Source], outcomes: Mapping[int, Picture | ImageError]
    ) -> None:
        """Tell images that cannot be read, which become failed rows, from storage that fails.

        Raises:
            StorageOutage: no image of a bucket (or of this machine) can be read any more: two or
                more failed, including images that could be read before; or the only one failed, and
                its bucket does not respond either.
        """
        answered: dict[str, dict[int, Source]] = {}
        failed: dict[str, list[TransientError]] = {}
        for row, one in outcomes.items():
            place = place_of(sources[row].file)
            if isinstance(one, TransientError):
                failed.setdefault(place, []).append(one)
            else:
                answered.setdefault(place, {})[row] = sources[row]
        for place, errors in failed.items():
            canaries = dict(islice(answered.get(place, {}).items(), CANARIES))
            again = self._try(canaries).values()
            asked = len(errors) + len(canaries)
            if asked == 1:
                check_responds(place)
            elif all(isinstance(one, TransientError) for one in again):
                raise s3.StorageOutage(
                    f"{place}: none of {asked} images could be read within "
                    f"{self.config.retry_seconds:.0f} s; the last error was: {errors[-1]}. Run the "
                    "same command again to resume when storage works"
                )


def load(uri: str, config: ImageConfig) -> Pixels:
    """Load one image at full size, without retries.

    Raises:
        ImageError: it cannot be loaded.
    """
    (read,) = plan({0: Source(uri)}, config.max_bytes)
    data = read.run()[0]
    if isinstance(data, ImageError):
        raise data
    return decode(data, max_pixels=config.max_pixels)


def pixels_of(table: pa.Table) -> list[Pixels | None]:
    """Images of a `LOADED` table as read-only views (nothing is copied); None for failed ones."""
    views: list[Pixels | None] = []
    for batch in table.to_batches():
        _, offsets, data = batch["pixels"].buffers()  # a scalar's as_buffer would copy
        starts = np.frombuffer(offsets, np.int64)[batch["pixels"].offset :]
        sides = (batch[name].to_pylist() for name in ("pixels_height", "pixels_width"))
        views += [
            np.frombuffer(data, np.uint8, h * w * 3, start).reshape(h, w, 3) if h else None
            for start, h, w in zip(starts, *sides, strict=False)  # starts has one more: the end
        ]
    return views


def _failed_before(table: pa.Table) -> dict[int, _Failed]:
    if "status" not in table.column_names:
        return {}
    empty = pa.nulls(len(table), pa.string())
    errors = table["error"] if "error" in table.column_names else empty
    rows = zip(table["status"].to_pylist(), errors.to_pylist(), strict=True)
    return {
        row: _Failed(status, error)
        for row, (status, error) in enumerate(rows)
        if status not in (None, "ok")
    }


def _sources(table: pa.Table, rows: Iterable[int]) -> dict[int, Source]:
    names = [name for name in ("uri", *SOURCES.names) if name in table.column_names]
    records = table.select(names).to_pylist()
    return {row: Source(**records[row]) for row in rows}


def _prefetched(pool: ThreadPoolExecutor, size: int, reads: Iterable[Read]) -> Iterator[Found]:
    """Results of `reads`, in order. At most `size` of them are running or waiting to be consumed,
    so the files of a whole batch need not fit in memory."""
    left = iter(reads)
    under_way: deque[tuple[Read, Future[Found]]] = deque()
    while True:
        for read in islice(left, size - len(under_way)):
            under_way.append((read, pool.submit(read.run)))
        if not under_way:
            return
        read, future = under_way.popleft()
        try:
            yield future.result()
        except ImageError as error:
            yield dict.fromkeys(read.rows, error)


def _as_table(
    table: pa.Table, pictures: dict[int, Picture], failed: Mapping[int, _Failed]
) -> pa.Table:
    """A `LOADED` table; empties `pictures`, so that memory never holds all pixels twice."""
    rows = range(len(table))
    columns = {name: table[name] for name in ("image_id", "uri", "split")}
    sizes = {
        row: (one.width, one.height, one.pixels.shape[1], one.pixels.shape[0])
        for row, one in pictures.items()
    }
    names = ("width", "height", "pixels_width", "pixels_height")
    columns |= {name: [sizes.get(row, (0,) * 4)[i] for row in rows] for i, name in enumerate(names)}
    columns |= {
        "pixels": _joined(pictures, len(table)),
        "status": [failed[row].status if row in failed else "ok" for row in rows],
        "error": [failed[row].error if row in failed else None for row in rows],
    }
    return pa.table(columns, schema=LOADED)


def _joined(pictures: dict[int, Picture], rows: int) -> pa.Array:
    """All pixels as one array, null for failed rows."""
    sizes = [pictures[row].pixels.nbytes if row in pictures else 0 for row in range(rows)]
    there = pa.array([row in pictures for row in range(rows)], pa.bool_())
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
    buffer = pa.allocate_buffer(int(offsets[-1]))
    target = np.frombuffer(buffer, np.uint8)
    for row in list(pictures):
        pixels = pictures.pop(row).pixels
        target[offsets[row] : offsets[row + 1]] = pixels.reshape(-1)
    buffers = [there.buffers()[1], pa.py_buffer(offsets), buffer]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), rows, buffers)
