"""Locate images in tar files, as used by WebDataset, by reading only headers.

images/reading.py reads the images themselves, those of a batch with one ranged read.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from vsa_ray import images, schema, storage
from vsa_ray.corpora.layouts import IMAGE_SUFFIXES

MEMBERS = pa.schema(
    [
        *schema.IMAGES,
        *(images.SOURCES.field(name) for name in ("container", "offset", "size")),
    ]
)
"""One row per image in a tar file."""

HEADER_BYTES = 32 * 1024
"""Bytes read at once to find headers; this includes small members such as texts."""

END_BYTES = 2**20
"""Bytes checked after the last member: a tar file ends in zeros, usually some kilobytes."""


def members(uri: str, shard: str) -> Iterator[dict[str, Any]]:
    """The images of a tar file as rows of MEMBERS; image_id is SHARD/MEMBER without its extension.

    Raises:
        storage.StorageError: it is not a tar file, or is compressed, damaged, truncated, or
            followed by another one.
    """
    filesystem, path = storage.resolve(uri)
    try:
        with (
            filesystem.open_input_file(path) as file,
            io.BufferedReader(_Seekable(file), HEADER_BYTES) as buffered,
            tarfile.open(fileobj=buffered, mode="r:") as tar,
        ):
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                # Invalid bytes of a name are escaped as \x..; the image is read by its offset.
                name = os.fsencode(member.name).decode(errors="backslashreplace")
                stem, dot, _ = name.rpartition(".")
                base = name.rpartition("/")[2]
                if not member.isfile() or base.startswith(".") or not dot:
                    continue
                if not base.lower().endswith(IMAGE_SUFFIXES):
                    continue
                yield {
                    "image_id": f"{shard}/{stem.removeprefix('./')}",
                    "uri": f"{uri}#{name}",
                    "split": "",
                    "container": uri,
                    "offset": member.offset_data,
                    "size": member.size,
                }
            _check_end(uri, file, tar.offset)
    except tarfile.TarError as error:
        raise storage.StorageError(
            f"{uri}: not a tar file that can be read in parts ({error}); it must be complete and "
            "not compressed"
        ) from error


def _check_end(uri: str, file: pa.NativeFile, offset: int) -> None:
    """Python's tarfile treats anything that is not a header as the end, and ignores the rest."""
    rest = file.read_at(min(file.size() - offset, END_BYTES), offset)
    if len(rest) < 2 * tarfile.BLOCKSIZE:
        raise storage.StorageError(
            f"{uri}: cut off at byte {file.size()}, without a tar file's end marker; write it again"
        )
    if rest.strip(b"\0"):
        at = offset + len(rest) - len(rest.lstrip(b"\0"))
        raise storage.StorageError(
            f"{uri}: after byte {offset} comes something that is not a tar header (byte {at}): "
            "damaged, or several tar files in one; write it again, or as separate files"
        )


class _Seekable(io.RawIOBase):
    """An Arrow file as a Python raw stream, so that it can be buffered."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._size = file.size()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._file.read_at(min(len(buffer), max(0, self._size - self._at)), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
