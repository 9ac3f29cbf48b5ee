"""Images in tar files, as WebDataset has them: where each lies. Only headers are read for that.

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
"""Images that lie in tar files, a row each."""

HEADER_BYTES = 32 * 1024
"""Read at once to find a header: small members' texts and headers come along."""

END_BYTES = 2**20
"""Looked at behind the last member: the end of a tar file is zeros, some kilobytes mostly."""


def members(uri: str, shard: str) -> Iterator[dict[str, Any]]:
    """The images of a tar file as rows of MEMBERS; image_id is SHARD/MEMBER without its extension.

    Raises:
        storage.StorageError: it is no tar file, a compressed one, or one that is damaged, cut off,
            or followed by another.
    """
    filesystem, path = storage.resolve(uri)
    try:
        with (
            filesystem.open_input_file(path) as file,
            io.BufferedReader(_Seekable(file), HEADER_BYTES) as buffered,
            tarfile.open(fileobj=buffered, mode="r:") as tar,
        ):
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would remember all of them
                # Of a name that is not UTF-8, its odd bytes as \x..; it is read by its place.
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
            f"{uri}: not a tar file that can be read in parts ({error}); it has to be plain, "
            "whole, and not compressed"
        ) from error


def _check_end(uri: str, file: pa.NativeFile, offset: int) -> None:
    """Python's tarfile takes whatever is no header for the end, and the rest would be missing."""
    rest = file.read_at(min(file.size() - offset, END_BYTES), offset)
    if len(rest) < 2 * tarfile.BLOCKSIZE:
        raise storage.StorageError(
            f"{uri}: cut off at byte {file.size()}, without the end that a tar file has; write it "
            "again"
        )
    if rest.strip(b"\0"):
        at = offset + len(rest) - len(rest.lstrip(b"\0"))
        raise storage.StorageError(
            f"{uri}: after byte {offset} comes neither an image nor nothing (byte {at}): damaged, "
            "or several tar files in one; write it again, or as files of their own"
        )


class _Seekable(io.RawIOBase):
    """An Arrow file as Python's io has it, so that it can be buffered."""

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
