"""Reasons why an image cannot be loaded."""

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
    "crashed",  # crashed the process that read it; set by datasets/guard.py
]


class ImageError(Exception):
    """An image that cannot be loaded: a `kind`, for counting, and a message for the user."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(kind, message)  # both arguments, or it cannot be unpickled
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


class TransientError(ImageError):
    """A transient failure: the same read may succeed later."""


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn whatever storage raises into an ImageError.

    Raises:
        s3.CredentialsError: S3 rejects the credentials, so no image can be read.
    """
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:  # StorageError is a ValueError
        s3.check_credentials(uri, error)
        failure = TransientError if s3.is_transient(error) else ImageError
        text = str(error)
        raise failure(kind_of(error), text if uri in text else f"{uri}: {text}") from error


def kind_of(error: Exception) -> Kind:
    """The kind of a storage error."""
    # S3's errors all arrive as plain OSErrors, which only differ in their text. The key comes
    # before "AWS Error" and may contain anything.
    text = str(error).rpartition("AWS Error")[2].lower()
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, PermissionError) or text.startswith(" access_denied"):
        return "access_denied"
    if isinstance(error, TimeoutError) or "timeout" in text or "time-out" in text:
        return "timeout"
    return "unreadable"


def place_of(uri: str) -> str:
    """The place that fails as a whole: a bucket, or this machine's file system."""
    scheme, _, rest = uri.rpartition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if scheme else "local files"


def check_responds(place: str) -> None:
    """Raise StorageOutage if a bucket itself does not respond."""
    if "://" in place:
        # A refusal is a response too.
        with suppress(OSError, storage.StorageError):
            storage.exists(place)
