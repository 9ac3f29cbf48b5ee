"""Why an image cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

import pyarrow as pa

from vsa_ray import s3, storage

Kind = Literal[
    "missing",
    "access_denied",
    "timeout",
    "empty",
    "not_an_image",
    "truncated",
    "too_large",
    "unreadable",
    "crashed",  # killed the process that read it; whoever starts such processes says so
]


class ImageError(Exception):
    """An image that cannot be had: its `kind`, for counting, and a message, for people."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(kind, message)  # both, or it does not pickle
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


class PassingError(ImageError):
    """The same read may succeed later."""


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turns whatever storage raises into an ImageError.

    Raises:
        s3.CredentialsError: nothing can be read: no matter of this image.
    """
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:  # StorageError is a ValueError
        s3.check_credentials(uri, error)
        failure = PassingError if s3.is_passing(error) else ImageError
        text = str(error)
        raise failure(kind_of(error), text if uri in text else f"{uri}: {text}") from error


def kind_of(error: Exception) -> Kind:
    """Of an error of storage."""
    # S3's own errors all arrive as a plain OSError: its text is all there is to tell them apart.
    # The key comes before "AWS Error", and may say anything.
    text = str(error).rpartition("AWS Error")[2].lower()
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, PermissionError) or text.startswith(" access_denied"):
        return "access_denied"
    if isinstance(error, TimeoutError) or "timeout" in text or "time-out" in text:
        return "timeout"
    return "unreadable"


def place_of(uri: str) -> str:
    """What fails together: a bucket, or the files of this machine."""
    scheme, _, rest = uri.rpartition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if scheme else "local files"


def knock(place: str) -> None:
    """Raise StorageOutage where a bucket, asked for nothing in it, does not answer."""
    if "://" in place:
        # A refusal is an answer too.
        with suppress(OSError, storage.StorageError):
            storage.exists(place)
