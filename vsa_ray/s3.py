"""S3 clients that notice a silent server soon, and patience with failures that pass.

Large jobs meet every failure of S3: 500, 503 SlowDown, connections that are refused, cut, or never
answered. The client tries each request again at once; `patiently` tries for minutes. What is not
going to pass (no such key, access denied) is raised as it comes.
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

_PASSING_ERRNO = {
    *(errno.EAGAIN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH),
    *(errno.ENETUNREACH, errno.ESTALE, errno.ETIMEDOUT),
}
"""Of network file systems: a disk does not say these."""

_lock = threading.Lock()


class StorageOutage(UserError):  # noqa: N818 - a state of the world
    """Storage fails and goes on failing. Nothing is wrong with the data; the job has to stop."""


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
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    for wait in waits():
        try:
            return action()
        except OSError as error:
            if not is_passing(error):
                raise
            if time.monotonic() + wait > deadline:
                raise StorageOutage(
                    f"{uri}: storage has been failing for {PATIENCE_SECONDS:.0f} s ({error}); "
                    "start the same command again when it works, and it goes on"
                ) from error
            logger.warning("%s: trying again in %.1f s: %s", uri, wait, error)
            time.sleep(wait)
    raise AssertionError("waits() never ends")
