"""Images of every kind of input to captions: killed, crashing, failing, and the same rows."""

from __future__ import annotations

import ctypes
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import odd_pictures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from odd_pictures import Bad, Good
from PIL import Image
from ray.util.state import list_actors

from jobs import caption_corpus
from vsa_ray import datasets, images, listing, schema, storage
from vsa_ray.captions import CaptionConfig
from vsa_ray.datasets import Stage
from vsa_ray.errors import UserError
from vsa_ray.outputs import SUMMARY, OutputError, TableOutput
from vsa_ray.regions import RegionConfig
from vsa_ray.s3 import StorageOutage

pytestmark = pytest.mark.cluster

PROJECT = Path(__file__).parents[2]
PICTURES = 90
BROKEN = "b/017.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures in two folders, one of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        path = folder / "ab"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        shapes = np.kron(rng.integers(0, 255, (4, 5, 3)), np.ones((12, 12, 1)))
        Image.fromarray(shapes.astype(np.uint8)).save(path)
    (folder / BROKEN).write_bytes(b"not a picture")
    return folder


def job(images: Path | str, mrnn: Path, out: Path, **settings: object) -> caption_corpus.JobConfig:
    return caption_corpus.JobConfig(
        images=str(images),
        mrnn=str(mrnn),
        out=str(out),
        regions=RegionConfig(image_side=64, max_boxes=3),
        captions=CaptionConfig(beam_size=1, max_words=5),
        batch_size=8,
        **settings,  # type: ignore[arg-type]
    )


def captions(out: Path | str) -> pa.Table:
    return storage.read_table(str(out), schema.CAPTIONS).sort_by("image_id")


def apart(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[float]]:
    """Rows without log_prob, and those: in a batch of other pictures a sum of floats rounds in
    another order.
    """
    log_probs = [row.pop("log_prob") for row in rows if row["log_prob"] is not None]
    log_probs += [region.pop("log_prob") for row in rows for region in row["regions"]]
    return rows, log_probs


@pytest.fixture(scope="module")
def undisturbed(folder: Path, mrnn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "captions"
    written = caption_corpus.main(job(folder, mrnn, out))
    assert written.by_status == {"ok": PICTURES - 1, "not_an_image": 1}
    return out


def test_a_summary_says_how_it_went(undisturbed: Path) -> None:
    summary = storage.read_json(str(undisturbed / SUMMARY))
    assert summary["rows"] == summary["rows_of_last_run"] == PICTURES
    assert summary["by_status"] == {"ok": PICTURES - 1, "not_an_image": 1}
    assert summary["made_from"]["captions.beam_size"] == 1
    assert summary["versions"]["ray"]


def test_a_driver_that_is_killed_goes_on(
    undisturbed: Path, folder: Path, mrnn: Path, tmp_path: Path
) -> None:
    """With a Ray of its own, as from the command line."""
    out = tmp_path / "captions"
    flags = ["--images", str(folder), "--mrnn", str(mrnn), "--out", str(out)]
    flags += ["--regions.image-side", "64", "--regions.max-boxes", "3", "--batch-size", "8"]
    flags += ["--captions.beam-size", "1", "--captions.max-words", "5"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "RAY_ADDRESS": "local"}
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.caption_corpus", *flags],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.DEVNULL,
    ) as driver:
        deadline = time.monotonic() + 240
        while not list(out.glob("part-*")):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert not (out / storage.SUCCESS).exists()
    (folder / "late.png").write_bytes(b"what comes later is not of this job")
    try:
        written = caption_corpus.main(job(folder, mrnn, out))
    finally:
        (folder / "late.png").unlink()
    assert written.rows == PICTURES
    assert captions(out) == captions(undisturbed)
    assert before.items() <= {p: p.stat().st_mtime_ns for p in out.glob("part-*")}.items()


def test_json_lines(undisturbed: Path, folder: Path, mrnn: Path, tmp_path: Path) -> None:
    caption_corpus.main(job(folder, mrnn, tmp_path / "captions", format="jsonl"))
    files = sorted((tmp_path / "captions").glob("part-*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows.sort(key=lambda row: row["image_id"])
    assert pa.Table.from_pylist(rows, schema=schema.CAPTIONS) == captions(undisturbed)


def test_tar_shards_and_bytes_in_parquet(
    undisturbed: Path, folder: Path, mrnn: Path, s3: str, tmp_path: Path
) -> None:
    """On S3 and on disk, the same captions as from the folder."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}
    for name in ("a", "b"):
        shard = io.BytesIO()
        with tarfile.open(fileobj=shard, mode="w") as tar:
            for key, path in files.items():
                if key.startswith(name):
                    tar.add(path, key.partition("/")[2])
        storage.write_bytes(f"{s3}/shards/{name}.tar", shard.getvalue())
    data = [path.read_bytes() for path in files.values()]
    (tmp_path / "table").mkdir()
    table = pa.table({"id": list(files), "image": data})
    pq.write_table(table, tmp_path / "table" / "some.parquet", row_group_size=40)
    expected = captions(undisturbed)
    rows, log_probs = apart(expected.drop_columns(["image_id", "uri"]).to_pylist())
    for images_at in (f"{s3}/shards", str(tmp_path / "table")):
        out = tmp_path / f"captions{len(images_at)}"
        caption_corpus.main(job(images_at, mrnn, out))
        found = captions(out)
        same = apart(found.drop_columns(["image_id", "uri"]).to_pylist())
        assert same == (rows, pytest.approx(log_probs, abs=1e-4))
    assert found["image_id"] == expected["image_id"]


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for i in range(3):
        with tarfile.open(tmp_path / "shards" / f"{i}.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo("a.png"))
    whole = (tmp_path / "shards" / "1.tar").read_bytes()
    (tmp_path / "shards" / "1.tar").write_bytes(whole * 2)
    with pytest.raises(UserError, match=r"^\S*/1\.tar: after byte 512 comes .* \(byte 10240\)"):
        listing.list_images(str(tmp_path / "shards"), str(tmp_path / "out"), datasets.each)


def test_odd_pictures_among_good_ones(
    undisturbed: Path, folder: Path, mrnn: Path, tmp_path: Path
) -> None:
    """Each odd one is described, each broken one says why, and their neighbours do not notice."""
    odds = [*odd_pictures.write(str(tmp_path / "odd"), odd_pictures.EVERYWHERE)]
    odds += odd_pictures.write(str(tmp_path / "odd"), odd_pictures.LOCAL)
    good = {path.relative_to(folder).as_posix(): str(path) for path in folder.rglob("*.png")}
    listed = [*good.items(), *((odd.name, uri) for odd, uri in odds)]
    random.Random(0).shuffle(listed)
    table = pa.table(dict(zip(("id", "uri"), zip(*listed, strict=True), strict=True)))
    pq.write_table(table, tmp_path / "list.parquet")
    caption_corpus.main(job(tmp_path / "list.parquet", mrnn, tmp_path / "captions"))

    found = {row["image_id"]: row for row in captions(tmp_path / "captions").to_pylist()}
    assert len(found) == len(listed)
    rows, log_probs = apart(captions(undisturbed).to_pylist())
    neighbours = apart([found.pop(image_id) for image_id in sorted(good)])
    assert neighbours == (rows, pytest.approx(log_probs, abs=1e-4))
    for odd, _ in odds:
        row = found[odd.name]
        if isinstance(odd.expected, Bad):
            assert row["status"] == odd.expected.status, row
            assert odd.expected.error in row["error"]
            assert (row["caption"], row["regions"]) == (None, [])
            continue
        assert (row["status"], row["error"]) == ("ok", None)
        assert row["caption"]
        if odd.expected == Good():  # shows the same as good.png, pixel for pixel
            same = found["good.png"]
            assert row["caption"] == same["caption"]
            assert row["log_prob"] == pytest.approx(same["log_prob"], abs=1e-5)
            assert [one["box"] for one in row["regions"]] == [one["box"] for one in same["regions"]]
    kinds = [type(odd.expected) for odd, _ in odds]
    assert min(kinds.count(Good), kinds.count(Bad)) >= 35


def test_too_many_failures_stop_a_job(mrnn: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(20):
        (tmp_path / "pictures" / f"{i}.jpg").write_bytes(b"no picture" if i < 15 else b"")
    config = job(tmp_path / "pictures", mrnn, tmp_path / "captions")
    with pytest.raises(OutputError, match=r"20 of 20 images failed \(15 not_an_image, 5 empty\)"):
        caption_corpus.main(config)
    assert storage.committed(config.out) is None
    more = job(tmp_path / "pictures", mrnn, tmp_path / "captions", max_error_rate=1.0)
    assert caption_corpus.main(more).by_status == {"not_an_image": 15, "empty": 5}


# Workers cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Fragile:
    """A stage that some pictures kill, each in its own way."""

    def __init__(self, deaths: dict[str, str]) -> None:
        self.deaths = deaths

    def __call__(self, table: pa.Table) -> pa.Table:
        for row in table.select(["image_id", "status"]).to_pylist():
            if row["status"] == "ok":
                match self.deaths.get(row["image_id"]):
                    case "segfault":
                        ctypes.string_at(0)
                    case "exit":
                        os._exit(1)
                    case "sys.exit":
                        sys.exit(3)
        return table.select(["image_id", "status", "error"])


@pytest.mark.parametrize(
    ("actors", "deaths"),
    [
        (1, {"a/010.png": "segfault", "b/011.png": "sys.exit"}),
        (0, {"a/030.png": "exit", "b/031.png": "sys.exit"}),
    ],
    ids=["actor", "task"],
)
def test_pictures_that_kill_their_process_become_rows(
    folder: Path, tmp_path: Path, actors: int, deaths: dict[str, str]
) -> None:
    stages = [
        Stage(mapper=images.LoadImages, args=(images.ImageConfig(),)),
        Stage(mapper=Fragile, args=(deaths,), actors=actors, num_cpus=0.5),
    ]
    output = TableOutput(uri=str(tmp_path / "out"), made_from={})
    output.begin()
    written = datasets.make_table(
        listing.list_images(str(folder), output.uri), stages, output, batch_size=8
    )
    assert written.by_status == {
        "ok": PICTURES - 1 - len(deaths),
        "not_an_image": 1,
        "crashed": len(deaths),
    }
    rows = pq.read_table(output.uri).to_pylist()
    assert {row["image_id"] for row in rows if row["status"] == "crashed"} == {*deaths}
    assert all("Fragile" in row["error"] for row in rows if row["status"] == "crashed")
    deadline = time.monotonic() + 30
    alive = partial(
        list_actors,
        ray.get_runtime_context().gcs_address,  # there may be other clusters on this machine
        filters=[("class_name", "=", "Counts"), ("state", "=", "ALIVE")],
    )
    while alive():
        assert time.monotonic() < deadline  # it ends with the job, not with the driver
        time.sleep(0.1)


class Unreachable:
    """A stage whose storage does not answer, at once or later."""

    def __init__(self, at_once: bool) -> None:
        if at_once:
            raise StorageOutage("storage does not answer")

    def __call__(self, table: pa.Table) -> pa.Table:
        raise StorageOutage("storage does not answer")


@pytest.mark.parametrize(("actors", "at_once"), [(0, False), (1, False), (1, True)])
def test_an_outage_ends_the_job_in_its_own_words(
    folder: Path, tmp_path: Path, actors: int, at_once: bool
) -> None:
    output = TableOutput(uri=str(tmp_path / "out"), made_from={})
    inputs = listing.list_images(str(folder), output.uri)
    stages = [Stage(mapper=Unreachable, args=(at_once,), actors=actors, num_cpus=0.5)]
    with pytest.raises(StorageOutage) as raised:
        datasets.make_table(inputs, stages, output, batch_size=8)
    assert str(raised.value) == "storage does not answer"
    assert not output.done()
