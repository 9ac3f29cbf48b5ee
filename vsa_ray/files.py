"""Stream all files below a folder or prefix; a listing of millions is never held in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from vsa_ray import s3, storage

logging.getLogger("botocore").setLevel(logging.WARNING)  # it logs where it finds credentials

ATTEMPTS = 10
"""Attempts per page of a listing, with increasing pauses."""

PAGE_KEYS = 1000
"""S3's maximum."""

_REFUSED = {"AccessDenied", "NoSuchBucket", *s3.BAD_CREDENTIALS}

_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
)

logger = logging.getLogger(__name__)


def files_below(uri: str, *, depth: int = 0) -> Iterator[str]:
    """URIs of the files below a directory, always in the same order.

    Hidden files and folders (names with a leading dot) are skipped; folders without read permission
    are skipped with a warning. Invalid bytes in a name that is not UTF-8 are escaped; no file is
    found by that name, so it becomes a failed row.

    Args:
        depth: 1 lists only the directory itself, 0 all levels.

    Raises:
        storage.StorageError: S3 refuses the request.
        s3.StorageOutage: S3 keeps failing.
    """
    root = storage.absolute(uri)
    if not root.startswith("s3://"):
        yield from _of_disk(root, depth, frozenset())
        return
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    try:
        for key in _of_bucket(bucket, f"{prefix}/" if prefix else "", depth):
            names = key[len(prefix) :].strip("/").split("/")
            if not key.endswith("/") and not any(name.startswith(".") for name in names):
                yield f"s3://{bucket}/{key}"
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        if code not in _REFUSED:
            raise s3.StorageOutage(f"{uri} cannot be listed: {error}; try again later") from error
        raise storage.StorageError(
            f"{uri} cannot be listed: {error}; check the bucket and the credentials in the "
            "environment"
        ) from error
    except _NO_CREDENTIALS as error:
        raise storage.StorageError(
            f"{uri} cannot be listed: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE, in the environment"
        ) from error
    except botocore.exceptions.BotoCoreError as error:
        raise s3.StorageOutage(f"{uri} cannot be listed: {error}; try again later") from error


def _of_bucket(bucket: str, prefix: str, depth: int) -> Iterator[str]:
    settings = botocore.config.Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"})
    client = boto3.client("s3", config=settings)
    options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    options["PaginationConfig"] = {"PageSize": PAGE_KEYS}
    if depth == 1:
        options["Delimiter"] = "/"
    for page in client.get_paginator("list_objects_v2").paginate(**options):
        yield from (entry["Key"] for entry in page.get("Contents", ()))


def _of_disk(folder: str, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Depth first; symbolic links are followed, except in cycles."""
    status = os.stat(folder)  # noqa: PTH116 - Path objects are slow for millions of files
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except PermissionError as error:
        if not above:
            raise storage.StorageError(f"{folder} cannot be listed: {error.strerror}") from error
        logger.warning("skipping %s: %s", folder, error.strerror)
        return
    for name, is_folder in found:
        path = f"{folder.rstrip('/')}/{name}"
        if name.startswith("."):
            continue
        if not is_folder:
            yield os.fsencode(path).decode(errors="backslashreplace")
        elif depth != 1:
            yield from _of_disk(path, depth, above | {here})
