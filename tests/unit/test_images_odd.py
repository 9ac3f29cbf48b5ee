"""Every odd picture through the stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import odd_pictures
import pyarrow as pa
import pytest
from odd_pictures import Bad, Good, Odd

from vsa_ray import schema
from vsa_ray.images import ImageConfig, LoadImages, pixels_of
from vsa_ray.regions import DetectRegions, RegionConfig

CONFIG = ImageConfig(retry_seconds=0)

ALL = odd_pictures.EVERYWHERE + odd_pictures.LOCAL


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Odd, str]]:
    folder = tmp_path_factory.mktemp("odd")
    return {odd.name: (odd, uri) for odd, uri in odd_pictures.write(str(folder), ALL)}


def table(pictures: list[tuple[Odd, str]]) -> pa.Table:
    names = [odd.name for odd, _ in pictures]
    columns = {"image_id": names, "uri": [uri for _, uri in pictures], "split": [""] * len(names)}
    return pa.table(columns, schema=schema.IMAGES)


@pytest.fixture(scope="module")
def loaded(written: dict[str, tuple[Odd, str]]) -> pa.Table:
    """All of them in one batch."""
    return LoadImages(CONFIG)(table([*written.values()]))


def check(odd: Odd, row: dict[str, object], pixels: npt.NDArray[np.uint8] | None) -> None:
    if isinstance(odd.expected, Bad):
        assert row["status"] == odd.expected.status, row["error"]
        assert odd.expected.error in str(row["error"])
        assert (row["width"], row["height"], pixels) == (0, 0, None)
        return
    assert (row["status"], row["error"]) == ("ok", None)
    assert (row["width"], row["height"]) == odd.expected.size
    assert pixels is not None
    assert max(pixels.shape) <= CONFIG.max_side
    width, height = odd.expected.size
    for x, y, colour in odd.expected.colours:
        at = pixels[y * pixels.shape[0] // height, x * pixels.shape[1] // width].astype(int)
        assert abs(at - colour).max() <= odd.expected.within, (x, y, at)


@pytest.mark.parametrize("name", [odd.name for odd in ALL])
def test_an_odd_picture(name: str, written: dict[str, tuple[Odd, str]], loaded: pa.Table) -> None:
    odd, uri = written[name]
    at = list(written).index(name)
    row = loaded.slice(at, 1)
    check(odd, row.drop(["pixels"]).to_pylist()[0], pixels_of(row)[0])
    alone = LoadImages(CONFIG)(table([(odd, uri)]))
    assert alone.equals(row.combine_chunks())  # whatever its neighbours are


def test_odd_pictures_in_a_bucket(s3: str) -> None:
    pictures = [*odd_pictures.write(s3, odd_pictures.FORMATS + odd_pictures.PLACES)]
    rows = LoadImages(CONFIG)(table(pictures))
    records = rows.drop(["pixels"]).to_pylist()
    for (odd, _), row, pixels in zip(pictures, records, pixels_of(rows), strict=True):
        check(odd, row, pixels)


def regions(rows: pa.Table, config: RegionConfig) -> None:
    """Of every picture that was loaded, all of it is a region; the others pass through."""
    detect = DetectRegions(config)
    found = detect(rows)
    assert found["status"].equals(rows["status"])
    for row in found.select(["width", "height", "boxes", "features", "status"]).to_pylist():
        whole = [[0, 0, row["width"], row["height"]]]
        assert row["boxes"][:1] == (whole if row["status"] == "ok" else [])
        boxes = np.array(row["boxes"]).reshape(-1, 4)
        assert (boxes >= 0).all()
        assert (boxes <= [row["width"], row["height"]] * 2).all()
        assert np.isfinite(np.array(row["features"], np.float32)).all()
        assert len(row["features"]) == len(boxes)
    one = len(rows) // 2
    assert detect(rows.slice(one, 1)).equals(found.slice(one, 1).combine_chunks())


def test_regions_of_odd_pictures(loaded: pa.Table) -> None:
    regions(loaded, RegionConfig(backbone_weights="random", image_side=64))


def test_regions_of_odd_pictures_by_picodet(loaded: pa.Table, vsa_data: Path) -> None:
    weights = str(vsa_data / "weights" / "picodet_s" / "picodet_s_416_coco.onnx")
    config = RegionConfig(
        detector="onnx", weights=weights, backbone_weights="random", image_side=64
    )
    regions(loaded, config)


def test_there_are_enough() -> None:
    kinds = [type(odd.expected) for odd in ALL]
    assert kinds.count(Bad) >= 30
    assert kinds.count(Good) >= 40
