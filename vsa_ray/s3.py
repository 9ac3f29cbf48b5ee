"""S3 clients that notice a silent server soon, and patience with failures that pass.

Large jobs meet every failure of S3: 500, 503 SlowDown, connections that are refused, cut, or never
answered. The client tries each request again at once; `patiently` tries for minutes. What is not
going to pass (no such key, access denied) is raised as it comes, but for credentials that S3 does
not take (any more): those fail every request, and are told apart by asking S3.
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
"""A server that sends nothing for so long is taken to have failed."""

ATTEMPTS = 2
"""Of the client, at each request."""

PATIENCE_SECONDS = 120.0
"""How long `patiently` goes on. A restart or a fail-over of a storage server takes less."""

WAITS_SECONDS = (0.5, 15.0)
"""The first wait between two tries, and the longest."""

_ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
"""What a client depends on."""

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
        "permission denied; choose another place, or let this user read and write there",
    ),
    **dict.fromkeys(
        (errno.EDQUOT, errno.ENOSPC),
        "no space is left there; make some and start the same command again",
    ),
}
"""Of disks."""

_NO_BUCKET = re.compile(r"^Bucket '[^']*' not found")
"""How pyarrow tells that it cannot find the region of a bucket."""

BAD_CREDENTIALS = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
"""What S3 says of who asks, whatever was asked for."""

ASKED_AGAIN_SECONDS = 60.0
"""An answer about credentials holds so long: not every image that is denied asks anew."""

_PASSING_ERRNO = {
    *(errno.EAGAIN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH),
    *(errno.ENETUNREACH, errno.ESTALE, errno.ETIMEDOUT),
}
"""Of network file systems: a disk does not say these."""

_lock = threading.Lock()


class StorageOutage(UserError):  # noqa: N818 - a state of the world
    """Storage fails and goes on failing. Nothing is wrong with the data; the job has to stop."""


class CredentialsError(UserError):
    """S3 does not know who asks, or not any more. Nothing is wrong with the data."""


def filesystem(bucket: str) -> pyarrow.fs.S3FileSystem:
    """The client of a bucket, made once for the settings that the environment has now."""
    settings = tuple(os.environ.get(name, "") for name in _ENVIRONMENT)
    with _lock:  # or every thread of a new worker makes one, each with requests of its own
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
        # A server of one's own has one region, the environment's; AWS redirects to the bucket's.
        region=None if host else pyarrow.fs.resolve_s3_region(bucket),
        connect_timeout=connect,
        request_timeout=silence,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, FileNotFoundError | PermissionError) or not isinstance(error, OSError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    # S3's own errors arrive as a plain OSError: its text is all there is. The key comes before
    # "AWS Error" and may say anything, so the last one counts.
    found = _AWS_ERROR.findall(str(error))
    if not found:
        return error.errno in _PASSING_ERRNO
    code, status = found[-1]
    return code in _PASSING_CODES or status in _PASSING_STATUS or status.startswith("5")


def refusal(error: OSError) -> str:
    """What S3 or a disk has against a request, however often it is made, and what to do; or ""."""
    code, status = (_AWS_ERROR.findall(str(error)) or [("", "")])[-1]
    if code in _REFUSING_CODES or status in _REFUSING_STATUS:
        return "access denied; check AWS_REGION, and what the credentials here may do with it"
    if code == "NO_SUCH_BUCKET" or _NO_BUCKET.search(str(error)):
        return "no such bucket; check its name, AWS_REGION and AWS_ENDPOINT_URL"
    return _REFUSING_ERRNO.get(error.errno or 0, "")


def check_credentials(uri: str, error: BaseException) -> None:
    """Tell a request that was refused for what it asked for from one refused for who asked.

    Raises:
        CredentialsError: S3 takes no request of these credentials.
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
            f"s3://{bucket}: S3 does not take the credentials of this environment ({reason}); "
            "renew them and start the same command again, and it goes on"
        ) from error


@lru_cache(maxsize=32)
def _refusal(bucket: str, _settings: tuple[str, ...], _now: int) -> str:
    """What S3 has against the credentials, or "". A HEAD, as files are opened with, never says."""
    import boto3  # only who is refused waits for it
    import botocore.exceptions

    try:
        boto3.client("s3").list_objects_v2(Bucket=bucket, MaxKeys=1)
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        return str(error) if code in BAD_CREDENTIALS else ""
    except botocore.exceptions.BotoCoreError as error:
        logger.warning("s3://%s: cannot ask about its credentials: %s", bucket, error)
    return ""


def waits() -> Iterator[float]:
    """Seconds to wait before each next try: twice as long each time, and never all at once."""
    wait, longest = WAITS_SECONDS
    while True:
        yield wait * random.uniform(0.5, 1)
        wait = min(2 * wait, longest)


def patiently(uri: str, action: Callable[[], Result]) -> Result:
    """`action()`, again and again while it fails in passing; it has to bear being repeated.

    Raises:
        StorageOutage: it failed for PATIENCE_SECONDS.
        CredentialsError: S3 does not take the credentials.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    for wait in waits():
        try:
            return action()
        except OSError as error:
            if not is_passing(error):
                check_credentials(uri, error)
                raise
            if time.monotonic() + wait > deadline:
                raise StorageOutage(
                    f"{uri}: storage has been failing for {PATIENCE_SECONDS:.0f} s ({error}); "
                    "start the same command again when it works, and it goes on"
                ) from error
            logger.warning("%s: trying again in %.1f s: %s", uri, wait, error)
            time.sleep(wait)
    raise AssertionError("waits() never ends")
