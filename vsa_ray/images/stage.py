"""The stage: rows that say where images are in, pixels or a reason out."""

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
from vsa_ray.images.failures import ImageError, PassingError, knock, place_of
from vsa_ray.images.reading import SOURCES, Found, Read, Source, plan
from vsa_ray.outputs import HOW

logger = logging.getLogger(__name__)

LOADED = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "split": pa.string(),
        "width": pa.int32(),  # of the upright picture; 0 where status is not "ok"
        "height": pa.int32(),
        "pixels_width": pa.int32(),  # of `pixels`: less than the picture's where it was shrunk
        "pixels_height": pa.int32(),
        "pixels": pa.large_binary(),  # `Pixels` as bytes; a batch may well exceed binary's 2 GiB
        "status": pa.string(),  # "ok" or a `Kind`
        "error": pa.string(),  # null where status is "ok"
    }
)
"""What `LoadImages` returns. It lives in memory only: pixels are never written."""

CANARIES = 3
"""Images that were answered for, asked for again to see whether storage still works."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    downloads: int = field(default=16, metadata=HOW)
    """Reads of storage that a loading task has under way at the same time. Raise it where models
    wait for images that come from S3."""

    max_pixels: int = 64_000_000
    """Images of more pixels (width x height) are not decoded, and become rows with the status
    too_large: a decoded pixel takes 3 bytes of memory."""

    max_bytes: int = 100_000_000
    """Files of more bytes are not read, and become rows with the status too_large."""

    max_side: int = 1600
    """Longest side in pixels that detectors and the backbone see: larger images are shrunk to it as
    soon as they are decoded, to save memory. Boxes are given in pixels of the full image."""

    retry_seconds: float = field(default=60.0, metadata=HOW)
    """Seconds for which images of a batch are asked for again where storage is slow, busy or
    restarting. After that they become failed rows; where nothing can be read, the job stops."""

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
    """Stage: an images table in, `LOADED` out, a row a row.

    The files come from a column `bytes`, or else from storage, see SOURCES. Rows that come with a
    status other than "ok" are not looked at: status and error stay.

    Raises:
        StorageOutage: storage fails and goes on failing, for all images.
        CredentialsError: S3 does not take the credentials, or not any more.
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
        """All rows' outcomes; failures that may pass are tried again, together."""
        outcomes: dict[int, Picture | ImageError] = {}
        deadline = time.monotonic() + self.config.retry_seconds
        waiting = dict(sources)
        for wait in s3.waits():
            outcomes |= self._try(waiting)
            passing = {row: one for row, one in outcomes.items() if isinstance(one, PassingError)}
            waiting = {row: sources[row] for row in passing}
            if not waiting or time.monotonic() + wait > deadline:
                break
            reason = next(iter(passing.values()))
            logger.warning("%d images: again in %.1f s: %s", len(waiting), wait, reason)
            time.sleep(wait)
        self._check_storage(sources, outcomes)
        # Storage works. What failed while it may not have is asked for once more.
        return outcomes | self._try(waiting)

    def _try(self, sources: Mapping[int, Source]) -> dict[int, Picture | ImageError]:
        """Read each once, decoding the first while the next are on their way."""
        with ThreadPoolExecutor(self.config.downloads) as pool:
            # Only waiting for storage is worth threads: decoding stays on this one, so that a
            # worker uses the CPU it asked for.
            return {
                row: self._decode(data)
                for found in _ahead(pool, plan(sources, self.config.max_bytes))
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
        """Tell images that always fail, which become rows, from storage that does.

        Raises:
            StorageOutage: of a bucket (or of this machine's files) no image can be had any more:
                two or more failed, one of which may have been had before; or the only one did, and
                its bucket does not answer either.
        """
        answered: dict[str, dict[int, Source]] = {}
        failed: dict[str, list[PassingError]] = {}
        for row, one in outcomes.items():
            place = place_of(sources[row].file)
            if isinstance(one, PassingError):
                failed.setdefault(place, []).append(one)
            else:
                answered.setdefault(place, {})[row] = sources[row]
        for place, errors in failed.items():
            canaries = dict(islice(answered.get(place, {}).items(), CANARIES))
            again = self._try(canaries).values()
            asked = len(errors) + len(canaries)
            if asked == 1:
                knock(place)
            elif all(isinstance(one, PassingError) for one in again):
                raise s3.StorageOutage(
                    f"{place}: none of {asked} images could be read, for "
                    f"{self.config.retry_seconds:.0f} s; the last error was: {errors[-1]}. Start "
                    "the same command again when storage works, and it goes on"
                )


def load(uri: str, config: ImageConfig) -> Pixels:
    """One image, of its full size, at one try.

    Raises:
        ImageError: it cannot be had.
    """
    (read,) = plan({0: Source(uri)}, config.max_bytes)
    data = read.run()[0]
    if isinstance(data, ImageError):
        raise data
    return decode(data, max_pixels=config.max_pixels)


def pixels_of(table: pa.Table) -> list[Pixels | None]:
    """Images of a `LOADED` table, None for the failed ones: read-only views, nothing is copied."""
    views: list[Pixels | None] = []
    for batch in table.to_batches():
        _, offsets, data = batch["pixels"].buffers()  # a scalar's as_buffer would be a copy
        starts = np.frombuffer(offsets, np.int64)[batch["pixels"].offset :]
        sides = (batch[name].to_pylist() for name in ("pixels_height", "pixels_width"))
        views += [
            np.frombuffer(data, np.uint8, h * w * 3, start).reshape(h, w, 3) if h else None
            for start, h, w in zip(starts, *sides, strict=False)  # starts ends with an end
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


def _ahead(pool: ThreadPoolExecutor, reads: Iterable[Read]) -> Iterator[Found]:
    """What `reads` find, in order. No more of them run or wait to be taken than `pool` has
    threads: the files of a whole batch need not fit in memory."""
    left = iter(reads)
    under_way: deque[tuple[Read, Future[Found]]] = deque()
    size = pool._max_workers
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
    """`LOADED`; empties `pictures`, so that at no time all pixels are there twice."""
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
    """All pixels as one array, null where there are none."""
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
