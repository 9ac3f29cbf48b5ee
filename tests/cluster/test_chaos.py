"""Captions of a corpus whose job is killed all the time: the same rows as of one left alone."""

from __future__ import annotations

import io
import logging
import os
import random
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
import torch
from chaos import Chaos, Job
from flaky_s3 import Fault, FlakyS3, RandomPlan
from machines import Machines
from PIL import Image

from jobs import caption_corpus
from vsa_ray import checkpoints, schema, storage
from vsa_ray.config import parse
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN
from vsa_ray.vocabulary import Vocabulary

pytestmark = pytest.mark.cluster

logger = logging.getLogger(__name__)

SEED = 1

SMALL = ("--regions.image-side", "128", "--regions.max-boxes", "3", "--batch-size", "8")
SMALL += ("--captions.beam-size", "1", "--captions.max-words", "5")

KILLS = {"driver": 6, "actor": 9, "worker": 12, "node": 5}
"""In `make chaos`, of processes that are at work; 30 at least."""

OUTAGES = 4
"""There, how often the storage server is gone for some seconds."""

FAULTS: dict[Fault, float] = {"500": 0.02, "503": 0.02, "slow": 0.02, "reset": 0.02, "cut": 0.02}
"""There, shares of all requests, all the time."""

PHOTOGRAPHS = int(os.environ.get("VSA_CHAOS_PHOTOGRAPHS", "100"))


PICTURES = 500

JOBS = ("first", "second", "third", "fourth", "fifth")
"""In CI, until all was killed once: a kill has to find something at work."""


def pictures() -> Iterator[tuple[str, bytes]]:
    """Small ones, every seventh of them none; names and bytes."""
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        shapes = np.kron(rng.integers(0, 255, (4, 5, 3)), np.ones((12, 12, 1)))
        stream = io.BytesIO()
        Image.fromarray(shapes.astype(np.uint8)).save(stream, "PNG")
        yield f"{'ab'[i % 2]}/{i:05}.png", stream.getvalue() if i % 7 else b"not a picture"


def left_alone(flags: Sequence[str], out: Path) -> pa.Table:
    """What the job makes that nothing happens to, on another cluster."""
    caption_corpus.main(
        parse(caption_corpus.JobConfig, description="", argv=[*flags, "--out", str(out)])
    )
    return captions(str(out))


def captions(out: str) -> pa.Table:
    assert storage.committed(out) is not None
    return storage.read_table(out, schema.CAPTIONS).sort_by("image_id")


def check(found: pa.Table, expected: pa.Table) -> None:
    """Every row, once, and every column of it."""
    assert found["image_id"].to_pylist() == expected["image_id"].to_pylist()
    for name in schema.CAPTIONS.names:
        assert found[name].equals(expected[name]), name


def files(out: Path) -> list[str]:
    return [path.name for path in out.glob("part-*")]


def files_behind(server: dict[str, str], out: str) -> list[str]:
    """The same on S3, without what fails before it."""
    bucket, _, prefix = out.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=server["AWS_ENDPOINT_URL"])
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/part-")
    return [entry["Key"] for entry in listed.get("Contents", ())]


def outage(flaky: FlakyS3, rng: random.Random) -> bool:
    """Some seconds without an answer, which a job bears or gives up at."""
    flaky.down()
    threading.Timer(rng.uniform(1, 20), flaky.up).start()
    return True


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths have to be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_job_survives(mrnn: Path, tmp_path: Path, short: Path) -> None:
    """The loss of workers, and of a machine for good. test_making.py kills a driver; more by
    `make chaos`."""
    for name, data in pictures():
        storage.write_bytes(str(tmp_path / "pictures" / name), data)
    flags = ("--images", str(tmp_path / "pictures"), "--mrnn", str(mrnn), *SMALL)
    flags += ("--num-actors", "2")
    expected = left_alone(flags, tmp_path / "expected")
    rng = random.Random(SEED)
    left = ["worker", "actor", "node"]
    with Machines(3, short) as machines:
        for name in JOBS:  # a fast one ends before all of that happened to it
            out = tmp_path / name
            job = Job("caption_corpus", [*flags, "--out", str(out)], machines.address, tmp_path)
            chaos = Chaos(job, machines, partial(files, out), rng, replaced=False)
            left = chaos.run(left)
            check(captions(str(out)), expected)
            assert (job.starts, chaos.gave_up) == (1, [])
            if not left:
                return
    pytest.fail(f"{len(JOBS)} jobs ended before these were killed: {left}")


@pytest.mark.chaos
def test_everything_is_killed(
    s3_server: dict[str, str],
    s3: str,
    mrnn: Path,
    tmp_path: Path,
    short: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On storage that fails all the time, and now and then is gone; job after job, until all was
    killed as often as it should be."""
    bucket = boto3.client("s3")
    for name, data in pictures():
        bucket.put_object(Bucket=s3.removeprefix("s3://"), Key=f"pictures/{name}", Body=data)
    flags = ("--images", f"{s3}/pictures", "--mrnn", str(mrnn), *SMALL)
    expected = left_alone(flags, tmp_path / "expected")
    flags += ("--loading.retry-seconds", "5")  # some outages last longer
    rng = random.Random(SEED)
    left = [*Counter({**KILLS, "storage": OUTAGES}).elements()]
    rng.shuffle(left)
    hits, runs = Counter[str](), list[Chaos]()
    with FlakyS3(s3_server["AWS_ENDPOINT_URL"], RandomPlan(SEED, FAULTS)) as flaky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", flaky.url)
        with Machines(2, short) as machines:
            while left:
                out = f"{s3}/captions-{len(runs)}"
                job = Job("caption_corpus", [*flags, "--out", out], machines.address, tmp_path)
                there = partial(files_behind, s3_server, out)
                more = {"storage": partial(outage, flaky, rng)}
                chaos = Chaos(job, machines, there, rng, **more)
                left = chaos.run(left)
                check(captions(out), expected)
                hits += chaos.hits
                runs.append(chaos)
    logger.info("hits at work: %s, in %d jobs", dict(hits), len(runs))
    logger.info("drivers killed before they worked: %d", sum(run.missed for run in runs))
    logger.info("given up: %s", [said for run in runs for said in run.gave_up])
    logger.info("requests to storage: %s", dict(flaky.seen))
    assert hits == Counter({**KILLS, "storage": OUTAGES})
    assert sum(KILLS.values()) >= 30
    assert all(flaky.seen[fault] for fault in FAULTS)


@pytest.mark.chaos
@pytest.mark.data
def test_photographs(flickr8k: Path, vsa_data: Path, tmp_path: Path, short: Path) -> None:
    """With a detector and a captioner of the usual size."""
    (tmp_path / "photographs").mkdir()
    for path in islice(sorted((flickr8k / "images").glob("*.jpg")), PHOTOGRAPHS):
        (tmp_path / "photographs" / path.name).symlink_to(path)
    vocabulary = Vocabulary(tuple(f"word{i}" for i in range(2537)), (5,) * 2537, 5)
    torch.manual_seed(0)
    model = MultimodalRNN(
        CaptionerConfig(), feature_dim=1280, vocabulary_size=2538, log_frequencies_V=None
    )
    checkpoints.save(str(tmp_path / "mrnn"), model.eval(), vocabulary)
    weights = vsa_data / "weights" / "picodet_s" / "picodet_s_416_coco.onnx"
    flags = ("--images", str(tmp_path / "photographs"), "--mrnn", str(tmp_path / "mrnn"))
    flags += ("--regions.detector", "onnx", "--regions.weights", str(weights))
    expected = left_alone(flags, tmp_path / "expected")
    assert expected["status"].unique().to_pylist() == ["ok"]
    out = tmp_path / "captions"
    with Machines(2, short) as machines:
        job = Job("caption_corpus", [*flags, "--out", str(out)], machines.address, tmp_path)
        chaos = Chaos(job, machines, partial(files, out), random.Random(SEED))
        left = chaos.run(["driver", "actor", "driver", "worker"] * max(1, PHOTOGRAPHS // 250))
    check(captions(str(out)), expected)
    logger.info("hits at work: %s; %d starts; not done: %s", dict(chaos.hits), job.starts, left)
    assert chaos.hits["driver"] > 0
