"""What tests of every folder share: an S3 server of their own, and the real photographs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

_bucket_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """The environment of a process that talks to a real S3 server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",  # or the SDK looks for an instance role, for seconds
    }
    server.stop()


@pytest.fixture
def s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a new bucket; child processes of the test reach it too."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{next(_bucket_numbers)}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def vsa_data() -> Path:
    """The folder of the real data sets; without it the test is skipped."""
    folder = os.environ.get("VSA_DATA", "")
    if not folder:
        pytest.skip("set VSA_DATA to the folder that holds data/flickr8k")
    return Path(folder)


@pytest.fixture(scope="session")
def flickr8k(vsa_data: Path) -> Path:
    folder = vsa_data / "data" / "flickr8k"
    if not folder.is_dir():
        pytest.skip(f"VSA_DATA={vsa_data}: no data/flickr8k in it")
    return folder
