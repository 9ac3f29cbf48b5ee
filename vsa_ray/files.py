"""All files below a folder or prefix, in a stream: a listing of millions never is in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from vsa_ray import s3, storage

logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells where it has its settings from

ATTEMPTS = 10
"""At each page of a listing, with growing pauses between them."""

PAGE_KEYS = 1000
"""What S3 gives at most."""

_REFUSED = {"AccessDenied", "NoSuchBucket", *s3.BAD_CREDENTIALS}

_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
)

logger = logging.getLogger(__name__)


def files_below(uri: str, *, depth: int = 0) -> Iterator[str]:
    """URIs of the files below a directory, in an order that is always the same.

    Files and folders whose names start with a dot are left out: systems leave them behind. So are
    folders that may not be read, with a warning. A name that is not UTF-8 has its odd
    bytes escaped: no file is found by it, which makes it a row that says so.

    Args:
        depth: 1 looks into the directory itself alone, 0 as deep as it goes.

    Raises:
        storage.StorageError: S3 refuses.
        s3.StorageOutage: S3 fails and goes on failing.
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
            raise s3.StorageOutage(f"{uri} cannot be listed: {error}; start again later") from error
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
        raise s3.StorageOutage(f"{uri} cannot be listed: {error}; start again later") from error


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
    """Depth first; links are followed, but not round in circles."""
    status = os.stat(folder)  # noqa: PTH116 - of millions of files, no Path is made
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except PermissionError as error:
        if not above:
            raise storage.StorageError(f"{folder} cannot be listed: {error.strerror}") from error
        logger.warning("%s is left out: %s", folder, error.strerror)
        return
    for name, is_folder in found:
        path = f"{folder.rstrip('/')}/{name}"
        if name.startswith("."):
            continue
        if not is_folder:
            yield os.fsencode(path).decode(errors="backslashreplace")
        elif depth != 1:
            yield from _of_disk(path, depth, above | {here})
