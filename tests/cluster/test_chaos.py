"""Captions of a corpus whose job is killed all the time: the same rows as of one left alone."""

from __future__ import annotations

import io
import logging
import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
from chaos import Chaos, Job, Machines
from flaky_s3 import Fault, FlakyS3, RandomPlan
from PIL import Image

from jobs import caption_corpus
from vsa_ray import schema, storage
from vsa_ray.captions import CaptionConfig
from vsa_ray.regions import RegionConfig

pytestmark = pytest.mark.cluster

logger = logging.getLogger(__name__)

SMALL = ["--regions.image-side", "64", "--regions.max-boxes", "3", "--batch-size", "8"]
SMALL += ["--captions.beam-size", "1", "--captions.max-words", "5"]

BROKEN = 7
"""Every so many pictures one is none."""

FAULTS: dict[Fault, float] = {"500": 0.02, "503": 0.02, "slow": 0.02, "reset": 0.02, "cut": 0.02}


def draw(folder: str, number: int) -> None:
    """Small pictures, some of them broken."""
    rng = np.random.default_rng(0)
    for i in range(number):
        shapes = np.kron(rng.integers(0, 255, (4, 5, 3)), np.ones((12, 12, 1)))
        stream = io.BytesIO()
        Image.fromarray(shapes.astype(np.uint8)).save(stream, "PNG")
        data = b"not a picture" if i % BROKEN == 1 else stream.getvalue()
        storage.write_bytes(storage.join(folder, "ab"[i % 2], f"{i:05}.png"), data)


def left_alone(images: str, mrnn: Path, out: Path) -> pa.Table:
    """What a job makes that nothing happens to, on another cluster."""
    caption_corpus.main(
        caption_corpus.JobConfig(
            images=images,
            mrnn=str(mrnn),
            out=str(out),
            regions=RegionConfig(image_side=64, max_boxes=3),
            captions=CaptionConfig(beam_size=1, max_words=5),
            batch_size=8,
        )
    )
    return captions(str(out))


def captions(out: str) -> pa.Table:
    assert storage.committed(out) is not None
    return storage.read_table(out, schema.CAPTIONS).sort_by("image_id")


def check(found: pa.Table, expected: pa.Table) -> None:
    assert found["image_id"].to_pylist() == expected["image_id"].to_pylist()
    for name in schema.CAPTIONS.names:
        assert found[name].equals(expected[name]), name


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths have to be short."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


def test_a_job_survives(mrnn: Path, tmp_path: Path, short: Path) -> None:
    """Workers and a machine; test_making.py kills a driver. More by `make chaos`."""
    draw(str(tmp_path / "pictures"), 600)
    flags = ["--images", str(tmp_path / "pictures"), "--mrnn", str(mrnn), *SMALL]
    expected = left_alone(str(tmp_path / "pictures"), mrnn, tmp_path / "expected")
    out = tmp_path / "captions"
    with Machines(2, short) as machines:
        job = Job("caption_corpus", [*flags, "--out", str(out)], machines.address, tmp_path)
        chaos = Chaos(job, machines, lambda: map(str, out.glob("part-*")), seed=1)
        assert chaos.run(["actor", "node", "worker"]) == []
    check(captions(str(out)), expected)
    assert (job.starts, chaos.gave_up) == (1, [])


@pytest.mark.chaos
def test_everything_is_killed(
    s3_server: dict[str, str],
    s3: str,
    mrnn: Path,
    tmp_path: Path,
    short: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a server that fails all the time, and now and then is gone."""
    draw(f"{s3}/pictures", 1200)
    expected = left_alone(f"{s3}/pictures", mrnn, tmp_path / "expected")
    kinds = ["driver"] * 6 + ["actor"] * 9 + ["worker"] * 12 + ["node"] * 5 + ["server"] * 4
    random.Random(1).shuffle(kinds)
    bucket = boto3.client("s3")  # of the sound server

    def files(out: str) -> list[str]:
        prefix = f"{out.removeprefix(f'{s3}/')}/part-"
        listed = bucket.list_objects_v2(Bucket=s3.removeprefix("s3://"), Prefix=prefix)
        return [entry["Key"] for entry in listed.get("Contents", ())]

    with FlakyS3(s3_server["AWS_ENDPOINT_URL"], RandomPlan(1, FAULTS)) as flaky:
        monkeypatch.setenv("AWS_ENDPOINT_URL", flaky.url)

        def server() -> bool:
            flaky.down()
            threading.Timer(random.Random(len(kinds)).uniform(1, 20), flaky.up).start()
            return True

        with Machines(2, short) as machines:
            hits, starts = 0, 0
            for i in range(10):
                out = f"{s3}/captions{i}"
                flags = ["--images", f"{s3}/pictures", "--mrnn", str(mrnn), "--out", out, *SMALL]
                flags += ["--loading.retry-seconds", "5"]
                job = Job("caption_corpus", flags, machines.address, tmp_path)
                chaos = Chaos(job, machines, lambda out=out: files(out), seed=i, server=server)
                kinds = chaos.run(kinds)
                print(i, chaos.hits, chaos.missed, chaos.gave_up, job.starts)
                check(captions(out), expected)
                if not kinds:
                    break
