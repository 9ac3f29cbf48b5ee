"""Read image bytes from where a row says they are: a file, or part of a larger one.

Nothing is read before its size is known to be within the limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.fs

from vsa_ray import storage
from vsa_ray.images.failures import ImageError, reading

SOURCES = pa.schema(
    {
        "container": pa.string(),  # URI of a file of many images; null: the image is at `uri`
        "offset": pa.int64(),  # of the image's bytes in it
        "size": pa.int64(),
    }
)
"""Columns that a table of images may have in addition to schema.IMAGES, all nullable.

They are used for tar files and other concatenations of image files. Images in Parquet come in a
column `bytes` instead, since such files are best read sequentially.
"""

SPAN_BYTES = 64 * 2**20
"""Maximum bytes of a container read at once."""

GAP_BYTES = 2**20
"""Maximum gap between two members read together: reading a gap is faster than a new request."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes of one image are; see SOURCES."""

    uri: str | None
    container: str | None = None
    offset: int | None = None
    size: int | None = None

    @property
    def file(self) -> str:
        """The URI to read."""
        return self.container or self.uri or ""


Found = dict[int, "bytes | ImageError"]
"""Row number -> its image's bytes, or why there are none."""


@dataclass(frozen=True, slots=True)
class Read:
    """One request to storage, for one or several rows."""

    rows: list[int]
    run: Callable[[], Found]
    """Raises ImageError if it fails for all of its rows."""


def plan(sources: Mapping[int, Source], max_bytes: int) -> list[Read]:
    """The reads for all rows; neighbouring images of one container share a read."""
    reads = []
    members: dict[str, list[tuple[int, Source]]] = defaultdict(list)
    for number, source in sources.items():
        if source.container is None:
            reads.append(Read([number], partial(_whole, number, source.uri, max_bytes)))
        else:
            members[source.container].append((number, source))
    for container, wanted in members.items():
        for span in _spans(wanted):
            rows = [number for number, _ in span]
            reads.append(Read(rows, partial(_members, container, span, max_bytes)))
    return reads


def _spans(members: list[tuple[int, Source]]) -> Iterable[list[tuple[int, Source]]]:
    span: list[tuple[int, Source]] = []
    start = end = 0
    for number, source in sorted(members, key=lambda member: _ends(member[1])):
        first, last = _ends(source)
        if span and (last - start > SPAN_BYTES or first - end > GAP_BYTES):
            yield span
            span = []
        if not span:
            start = end = first
        span.append((number, source))
        end = max(end, last)
    yield span


def _ends(source: Source) -> tuple[int, int]:
    first = -1 if source.offset is None else source.offset
    return first, first + (source.size or 0)


def _whole(number: int, uri: str | None, max_bytes: int) -> Found:
    if not uri:
        raise ImageError("missing", "its row has no URI")
    with reading(uri), _opened(uri) as file:
        size = file.size()
        if size > max_bytes:
            raise ImageError("too_large", f"{uri} has {size} bytes, which is over {max_bytes}")
        return {number: file.read(size)}


def _members(container: str, span: list[tuple[int, Source]], max_bytes: int) -> Found:
    found: Found = {}
    small = []
    with reading(container), _opened(container) as file:
        end_of_file = file.size()
        for number, source in span:
            first, last = _ends(source)
            if source.size is None or source.size < 0 or first < 0:
                found[number] = ImageError(
                    "unreadable",
                    f"{container} has no image at {source.offset} of size {source.size}",
                )
            elif source.size > max_bytes:
                message = f"{source.size} bytes at {first} of {container} are over {max_bytes}"
                found[number] = ImageError("too_large", message)
            elif last > end_of_file:
                message = f"{container} ends at {end_of_file}, before the image that ends at {last}"
                found[number] = ImageError("truncated", message)
            else:
                small.append((number, first, last))
        if small:
            start, stop = min(first for _, first, _ in small), max(last for _, _, last in small)
            data = memoryview(file.read_at(stop - start, start))
            found |= {n: bytes(data[first - start : last - start]) for n, first, last in small}
    return found


def _opened(uri: str) -> Any:
    """The file, opened for random access.

    Raises:
        ImageError: it is a pipe or a device, which could block for ever.
    """
    filesystem, path = storage.resolve(uri)
    if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        kind = filesystem.get_file_info(path).type
        if kind in (pyarrow.fs.FileType.Directory, pyarrow.fs.FileType.Unknown):
            raise ImageError("unreadable", f"{uri} is not a file ({kind.name.lower()})")
    return filesystem.open_input_file(path)
