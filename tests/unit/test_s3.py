"""An S3 server that fails, seen through everything that reads and writes."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flaky_s3 import Fault, FlakyS3, Plan, RandomPlan, Request, sound
from odd_pictures import file, picture

from vsa_ray import s3, schema, storage
from vsa_ray.files import files_below
from vsa_ray.images import ImageConfig, ImageError, LoadImages, StorageOutage, TransientError, load
from vsa_ray.listing import list_images

FAULTS: list[Fault] = ["500", "503", "silent", "reset", "cut"]


@pytest.fixture
def flaky(s3_server: dict[str, str], s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    """A proxy before the bucket of the fixture `s3`; it starts sound."""
    monkeypatch.setattr("vsa_ray.s3.SILENCE_SECONDS", 1.0)
    monkeypatch.setattr("vsa_ray.s3.ATTEMPTS", 1)  # the client's own are not what is tested
    monkeypatch.setattr("vsa_ray.s3.WAITS_SECONDS", (0.01, 0.1))
    monkeypatch.setattr("vsa_ray.s3.PATIENCE_SECONDS", 20.0)
    with FlakyS3(s3_server["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def always(fault: Fault, *, methods: str = "HEAD GET PUT POST DELETE", where: str = "") -> Plan:
    def plan(request: Request) -> Fault | None:
        return fault if request.method in methods.split() and where in request.path else None

    return plan


def once(fault: Fault) -> Plan:
    """Each request fails the first time."""
    return lambda request: fault if request.attempt == 0 else None


def table(uris: list[str]) -> pa.Table:
    columns = {"image_id": uris, "uri": uris, "split": [""] * len(uris)}
    return pa.table(columns, schema=schema.IMAGES)


def statuses(uris: list[str], seconds: float = 20) -> list[str]:
    found = LoadImages(ImageConfig(retry_seconds=seconds))(table(uris))["status"].to_pylist()
    return [str(status) for status in found]


@pytest.fixture
def pictures(s3: str) -> list[str]:
    uris = [f"{s3}/{i}.png" for i in range(6)]
    for i, uri in enumerate(uris):
        storage.write_bytes(uri, file(picture(i + 2, 3)))
    return uris


@pytest.mark.parametrize("fault", FAULTS)
def test_failures_that_pass_spoil_no_row(fault: Fault, flaky: FlakyS3, pictures: list[str]) -> None:
    flaky.plan = once(fault)
    assert statuses([*pictures, pictures[0] + ".gone"]) == ["ok"] * 6 + ["missing"]
    assert flaky.seen[fault] >= 6


@pytest.mark.parametrize("seed", range(3))
def test_a_server_that_fails_at_random(seed: int, flaky: FlakyS3, pictures: list[str]) -> None:
    rates: dict[Fault, float] = {"500": 0.15, "503": 0.15, "reset": 0.1, "cut": 0.1}
    flaky.plan = RandomPlan(seed, rates)
    loaded = LoadImages(ImageConfig(retry_seconds=20))(table(pictures))
    assert loaded["width"].to_pylist() == [2, 3, 4, 5, 6, 7]
    assert sum(flaky.seen[fault] for fault in rates) > 0


def test_a_picture_that_always_fails_is_a_row(flaky: FlakyS3, pictures: list[str]) -> None:
    flaky.plan = always("500", where="/3.png")
    assert statuses(pictures, 0.2) == ["ok"] * 3 + ["unreadable"] + ["ok"] * 2
    flaky.plan = always("silent", where="/3.png")
    assert statuses(pictures, 0.2) == ["ok"] * 3 + ["timeout"] + ["ok"] * 2
    assert statuses(pictures[3:4], 0.2) == ["timeout"]


def test_an_outage_is_one_for_a_single_picture_too(
    flaky: FlakyS3, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsa_ray.s3.PATIENCE_SECONDS", 0.2)
    flaky.plan = always("503")
    with pytest.raises(StorageOutage, match=r"s3://test-\d+: storage has been failing"):
        statuses(pictures[:1], 0.2)
    flaky.plan = lambda request: "503" if ".png" in request.path else "denied"
    assert statuses(pictures[:1], 0.2) == ["unreadable"]  # its bucket answers


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_stops_the_job(fault: Fault, flaky: FlakyS3, pictures: list[str]) -> None:
    flaky.plan = always(fault, methods="GET")
    with pytest.raises(StorageOutage, match=r"s3://test-\d+: none of 6 images could be read"):
        statuses(pictures, 0.2)


def test_a_server_that_is_gone(flaky: FlakyS3, pictures: list[str]) -> None:
    assert statuses(pictures) == ["ok"] * 6
    flaky.down()
    with pytest.raises(StorageOutage, match="NETWORK_CONNECTION"):
        statuses(pictures, 0.2)
    flaky.up()
    assert statuses(pictures) == ["ok"] * 6


def test_a_server_that_dies_in_the_middle_of_a_batch(flaky: FlakyS3, pictures: list[str]) -> None:
    def dies(request: Request) -> Fault | None:
        return "reset" if len(flaky.requests) > 6 else None

    flaky.plan = dies
    with pytest.raises(StorageOutage):  # though some images were there
        statuses(pictures, 0.2)
    flaky.plan = sound
    assert statuses(pictures) == ["ok"] * 6


def test_an_outage_that_ends_just_now_spoils_no_row(flaky: FlakyS3, pictures: list[str]) -> None:
    """The first picture was had before it, and is had again; the others failed until now."""

    def plan(request: Request) -> Fault | None:
        over = any("/0.png" in one.path and one.attempt for one in flaky.requests)
        return None if "/0.png" in request.path or over else "500"

    flaky.plan = plan
    assert statuses(pictures, 0.2) == ["ok"] * 6


def test_what_is_denied_is_not_tried_again(flaky: FlakyS3, pictures: list[str]) -> None:
    before = len(flaky.requests)
    assert statuses([f"{pictures[0]}.gone", f"{pictures[1]}.gone"]) == ["missing"] * 2
    assert len(flaky.requests) - before <= 4


def test_what_s3_refuses_is_told_in_a_line(flaky: FlakyS3, pictures: list[str]) -> None:
    flaky.plan = always("denied")
    for action in (storage.exists, storage.committed, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(
            storage.StorageError, match=r"0\.png.*: access denied; check AWS_REGION"
        ):
            action(pictures[0])
    assert "no such bucket" in s3.refusal(OSError("Bucket 'typo' not found"))
    assert s3.refusal(OSError("Bucket or not, no AWS Error UNKNOWN (HTTP status 500) during")) == ""


@pytest.mark.parametrize(("fault", "code"), [("expired", "ExpiredToken"), ("unknown", "InvalidA")])
def test_bad_credentials_stop_the_job(
    fault: Fault, code: str, flaky: FlakyS3, pictures: list[str]
) -> None:
    flaky.plan = always(fault)
    with pytest.raises(s3.CredentialsError, match=rf"rejects the credentials.*{code}"):
        statuses(pictures)
    for action in (storage.exists, storage.read_bytes, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(s3.CredentialsError, match="renew them"):
            action(pictures[0])
    with pytest.raises(storage.StorageError, match=rf"cannot be listed.*{code}"):
        list(files_below(pictures[0].rpartition("/")[0]))


def test_an_object_that_is_denied_is_a_row(flaky: FlakyS3, pictures: list[str]) -> None:
    flaky.plan = always("denied", where="/3.png")
    assert statuses(pictures) == ["ok"] * 3 + ["access_denied"] + ["ok"] * 2
    flaky.plan = always("denied", where="png")
    assert statuses(pictures) == ["access_denied"] * 6
    asked = [one for one in flaky.requests if "list-type" in one.path]
    # About the credentials, once; more often where the answer was slow.
    assert 1 <= len(asked) < len(pictures)


def test_one_image_at_one_try(flaky: FlakyS3, pictures: list[str]) -> None:
    flaky.plan = always("503")
    with pytest.raises(TransientError):
        load(pictures[0], ImageConfig())


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut"])
def test_storage_bears_failures(fault: Fault, flaky: FlakyS3, s3: str) -> None:
    rows = pa.table({"image_id": ["a", "b"], "split": ["x", "y"]})
    flaky.plan = once(fault)
    uri = storage.join(s3, "table")
    storage.write_table(uri, rows)
    storage.commit(uri, {"rows": 2})
    assert storage.committed(uri) == {"rows": 2}
    assert storage.read_table(uri, rows.schema).equals(rows)
    blocks = storage.read_blocks(uri, rows.schema, columns=["image_id"], split="y")
    assert [block.to_pydict() for block in blocks] == [{"image_id": ["b"]}]
    assert [file.rpartition("/")[2] for file in storage.list_files(uri)] == [
        "_SUCCESS",
        "part-00000.parquet",
    ]
    assert storage.is_directory(uri)
    storage.delete(uri)
    assert not storage.exists(uri)
    assert flaky.seen[fault] > 5


def tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["folder", "list.txt", "list.parquet", "tar", "bytes.parquet"])
@pytest.mark.parametrize("fault", ["503", "reset", "cut"])
def test_listing_bears_failures(
    fault: Fault, kind: str, flaky: FlakyS3, s3: str, pictures: list[str], tmp_path: Path
) -> None:
    files = [storage.read_bytes(uri) for uri in pictures]
    uri = s3 if kind == "folder" else f"{s3}/input/{kind}"
    match kind:
        case "list.txt":
            storage.write_bytes(uri, "\n".join(pictures).encode())
        case "tar":
            storage.write_bytes(f"{uri}/0.tar", tar({f"{i}.png": x for i, x in enumerate(files)}))
        case "list.parquet" | "bytes.parquet":
            column = {"uri": pictures} if kind == "list.parquet" else {"bytes": files}
            pq.write_table(pa.table({"id": pictures, **column}), tmp_path / "table.parquet")
            storage.write_bytes(uri, (tmp_path / "table.parquet").read_bytes())
    flaky.plan = once(fault)
    found = [list_images(uri, storage.join(s3, f"out{i}")) for i in range(2)]
    found.append(list_images(uri, storage.join(s3, "out0")))  # what was listed before
    assert [sum(one.rows) for one in found] == [6] * 3
    assert flaky.seen[fault] > 5


def test_a_failed_write_leaves_what_was_there(
    flaky: FlakyS3, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsa_ray.s3.PATIENCE_SECONDS", 0.2)
    uri = storage.join(s3, "large.bin")
    storage.write_bytes(uri, b"old")
    flaky.plan = lambda request: "500" if "partNumber=2" in request.path else None
    with pytest.raises(StorageOutage, match=r"large\.bin: storage has been failing for 0 s"):
        storage.write_bytes(uri, bytes(25 * 2**20))  # in several parts
    assert flaky.seen["500"] > 0
    flaky.plan = sound
    assert storage.read_bytes(uri) == b"old"


def test_random_plans_do_not_depend_on_the_order_of_requests() -> None:
    plan = RandomPlan(1, {"500": 0.3, "cut": 0.3})
    requests = [Request("GET", f"/{i}", i % 3) for i in range(300)]
    fates = [plan(request) for request in requests]
    assert fates[::-1] == [plan(request) for request in requests[::-1]]
    assert all(60 < fates.count(fault) < 120 for fault in ("500", "cut"))  # type: ignore[arg-type]
    assert fates != [RandomPlan(2, plan.rates)(request) for request in requests]


def test_what_the_proxy_passes_on_is_as_it_was(flaky: FlakyS3, s3: str) -> None:
    storage.write_bytes(f"{s3}/a b?c#d%20é", b"\0\1" * 1000)
    assert storage.read_bytes(f"{s3}/a b?c#d%20é") == b"\0\1" * 1000
    bucket = s3.removeprefix("s3://")
    client = boto3.client("s3", endpoint_url=flaky.url)
    assert [one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]] == [
        "a b?c#d%20é"
    ]


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        ("AWS Error UNKNOWN (HTTP status 500) during HeadObject operation: ", True),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: ", True),
        ("AWS Error UNKNOWN (HTTP status 429) during HeadObject operation: ", True),
        ("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: ", False),
        ("AWS Error SLOW_DOWN during UploadPart operation: ", True),
        ("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7", True),
        ("AWS Error ACCESS_DENIED during HeadObject operation: ", False),
        ("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: ", False),
        ("key 'AWS Error SLOW_DOWN during': AWS Error ACCESS_DENIED during GetObject", False),
        ("[Errno 22] Invalid argument", False),
    ],
)
def test_what_passes(error: str, passing: bool) -> None:
    assert s3.is_transient(OSError(error)) is passing


def test_what_passes_by_its_type() -> None:
    assert s3.is_transient(ConnectionResetError("a"))
    assert s3.is_transient(TimeoutError("a"))
    assert s3.is_transient(OSError(116, "Stale file handle"))
    assert not s3.is_transient(FileNotFoundError("timeout"))
    assert not s3.is_transient(OSError(28, "No space left on device"))
    assert not s3.is_transient(ValueError("AWS Error SLOW_DOWN during x"))


def test_waits_grow_and_differ() -> None:
    several = [[wait for wait, _ in zip(s3.waits(), range(12), strict=False)] for _ in range(2)]
    assert several[0] != several[1]
    for waits in several:
        assert all(0.25 * 2**i <= wait <= 0.5 * 2**i for i, wait in enumerate(waits[:5]))
        assert max(waits) <= 15


def test_errors_pickle() -> None:
    outage = pickle.loads(pickle.dumps(StorageOutage("s3://b: gone")))
    assert (type(outage), str(outage)) == (StorageOutage, "s3://b: gone")
    error = pickle.loads(pickle.dumps(TransientError("timeout", "x")))
    assert (type(error), error.kind, str(error)) == (TransientError, "timeout", "x")
    assert isinstance(error, ImageError)


def test_without_an_endpoint_the_region_is_the_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setattr("pyarrow.fs.resolve_s3_region", {"far": "ap-southeast-2"}.__getitem__)
    assert s3.filesystem("far").region == "ap-southeast-2"
    assert s3.filesystem("far") is s3.filesystem("far")
