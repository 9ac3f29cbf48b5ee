"""S3 clients that detect unresponsive servers quickly, and retries for transient failures.

Large jobs meet every kind of S3 failure: 500, 503 SlowDown, connections that are refused, cut, or
never answered. The client retries each request immediately; `with_retries` retries for minutes.
Permanent failures (no such key, access denied) are raised unchanged, except when S3 rejects the
credentials: then every request fails, which is found out by asking S3.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import pyarrow.fs

from vsa_ray.errors import UserError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 10.0
"""A server that sends nothing for this long counts as failed."""

ATTEMPTS = 2
"""The client's attempts per request."""

PATIENCE_SECONDS = 120.0
"""How long `with_retries` retries. A restart or fail-over of a storage server takes less."""

WAITS_SECONDS = (0.5, 15.0)
"""The first and the longest wait between two attempts."""

_ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
"""Environment variables that a client depends on."""

_AWS_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during")

_PASSING_CODES = {
    "INTERNAL_FAILURE",
    "NETWORK_CONNECTION",  # curl's errors: refused, reset, cut, silent, unknown host
    "REQUEST_EXPIRED",
    "REQUEST_TIMEOUT",
    "REQUEST_TIME_TOO_SKEWED",
    "SERVICE_UNAVAILABLE",
    "SLOW_DOWN",
    "THROTTLING",
}

_PASSING_STATUS = {"408", "429"}  # and 5xx

_REFUSING_CODES = {"ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH"}

_REFUSING_STATUS = {"400", "401", "403"}

_REFUSING_ERRNO = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "permission denied; use another place, or give this user read and write access",
    ),
    **dict.fromkeys(
        (errno.EDQUOT, errno.ENOSPC),
        "no space left there; free some and run the same command again to resume",
    ),
}
"""Permanent errors of disks, and what to do."""

_NO_BUCKET = re.compile(r"^Bucket '[^']*' not found")
"""pyarrow's message when it cannot find the region of a bucket."""

BAD_CREDENTIALS = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
"""S3's errors about the credentials, whatever was requested."""

ASKED_AGAIN_SECONDS = 60.0
"""How long an answer about credentials is cached, so that not every denied image asks again."""

_PASSING_ERRNO = {
    *(errno.EAGAIN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH),
    *(errno.ENETUNREACH, errno.ESTALE, errno.ETIMEDOUT),
}
"""Errors of network file systems; a local disk does not return these."""

_lock = threading.Lock()


class StorageOutage(UserError):  # noqa: N818 - a state of the world
    """Storage keeps failing. Nothing is wrong with the data; the job has to stop."""


class CredentialsError(UserError):
    """S3 rejects the credentials. Nothing is wrong with the data."""


def filesystem(bucket: str) -> pyarrow.fs.S3FileSystem:
    """The client for a bucket, cached for the current settings in the environment."""
    settings = tuple(os.environ.get(name, "") for name in _ENVIRONMENT)
    with _lock:  # otherwise every thread of a new worker makes one, each with its own requests
        return _client(bucket, settings, CONNECT_SECONDS, SILENCE_SECONDS)


@lru_cache(maxsize=32)
def _client(
    bucket: str, settings: tuple[str, ...], connect: float, silence: float
) -> pyarrow.fs.S3FileSystem:
    values = dict(zip(_ENVIRONMENT, settings, strict=True))
    scheme, _, host = (values["AWS_ENDPOINT_URL_S3"] or values["AWS_ENDPOINT_URL"]).rpartition(
        "://"
    )
    return pyarrow.fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        # A self-hosted server has one region, the environment's; on AWS, look up the bucket's.
        region=None if host else pyarrow.fs.resolve_s3_region(bucket),
        connect_timeout=connect,
        request_timeout=silence,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, FileNotFoundError | PermissionError) or not isinstance(error, OSError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    # S3's errors arrive as plain OSErrors, which only differ in their text. The key comes before
    # "AWS Error" and may contain anything, so the last match counts.
    found = _AWS_ERROR.findall(str(error))
    if not found:
        return error.errno in _PASSING_ERRNO
    code, status = found[-1]
    return code in _PASSING_CODES or status in _PASSING_STATUS or status.startswith("5")


def refusal(error: OSError) -> str:
    """Why S3 or a disk permanently refuses a request, and what to do; or ""."""
    code, status = (_AWS_ERROR.findall(str(error)) or [("", "")])[-1]
    if code in _REFUSING_CODES or status in _REFUSING_STATUS:
        return "access denied; check AWS_REGION and the permissions of the credentials"
    if code == "NO_SUCH_BUCKET" or _NO_BUCKET.search(str(error)):
        return "no such bucket; check its name, AWS_REGION and AWS_ENDPOINT_URL"
    return _REFUSING_ERRNO.get(error.errno or 0, "")


def check_credentials(uri: str, error: BaseException) -> None:
    """Tell a request that was refused for its object from one refused for its credentials.

    Raises:
        CredentialsError: S3 rejects all requests with these credentials.
    """
    found = _AWS_ERROR.findall(str(error))
    if not found or not uri.lower().startswith("s3://"):
        return
    code, status = found[-1]
    if code not in _REFUSING_CODES and status not in _REFUSING_STATUS:
        return
    bucket = uri[len("s3://") :].partition("/")[0]
    settings = tuple(os.environ.get(name, "") for name in _ENVIRONMENT)
    with _lock:
        reason = _refusal(bucket, settings, int(time.monotonic() / ASKED_AGAIN_SECONDS))
    if reason:
        raise CredentialsError(
            f"s3://{bucket}: S3 rejects the credentials in this environment ({reason}); "
            "renew them and run the same command again to resume"
        ) from error


@lru_cache(maxsize=32)
def _refusal(bucket: str, _settings: tuple[str, ...], _now: int) -> str:
    """Why S3 rejects the credentials, or "". A HEAD request, which opens files, does not say."""
    import boto3  # slow to import, and only needed after a refusal
    import botocore.exceptions

    try:
        boto3.client("s3").list_objects_v2(Bucket=bucket, MaxKeys=1)
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        return str(error) if code in BAD_CREDENTIALS else ""
    except botocore.exceptions.BotoCoreError as error:
        logger.warning("s3://%s: cannot check the credentials: %s", bucket, error)
    return ""


def waits() -> Iterator[float]:
    """Seconds to wait before each retry: doubling each time, with jitter."""
    wait, longest = WAITS_SECONDS
    while True:
        yield wait * random.uniform(0.5, 1)
        wait = min(2 * wait, longest)


def with_retries(uri: str, action: Callable[[], Result]) -> Result:
    """`action()`, retried while it fails transiently; it must be safe to repeat.

    Raises:
        StorageOutage: it kept failing for PATIENCE_SECONDS.
        CredentialsError: S3 rejects the credentials.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    for wait in waits():
        try:
            return action()
        except OSError as error:
            if not is_transient(error):
                check_credentials(uri, error)
                raise
            if time.monotonic() + wait > deadline:
                raise StorageOutage(
                    f"{uri}: storage has been failing for {PATIENCE_SECONDS:.0f} s ({error}); "
                    "run the same command again to resume when it works"
                ) from error
            logger.warning("%s: retrying in %.1f s: %s", uri, wait, error)
            time.sleep(wait)
    raise AssertionError("waits() never ends")
