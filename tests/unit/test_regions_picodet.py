from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vsa_ray.regions import RegionConfig
from vsa_ray.regions.picodet import PicoDet, class_names, coco_names, decode_level, is_layout


def test_decode_level_against_loops() -> None:
    rng = np.random.default_rng(0)
    side, row, classes, bins = 64, 4, 3, 8  # cells of 16 pixels
    scores = rng.random((row * row, classes), np.float32)
    logits = (5 * rng.normal(size=(row * row, 4 * bins))).astype(np.float32)
    expected = []
    for cell in range(row * row):
        if max(scores[cell]) < 0.6:
            continue
        reach = []
        for edge in range(4):
            weights = [np.exp(logits[cell, edge * bins + k]) for k in range(bins)]
            mean = sum(k * weight for k, weight in enumerate(weights)) / sum(weights)
            reach.append(16 * mean)
        x, y = 16 * (cell % row) + 8, 16 * (cell // row) + 8
        box = [x - reach[0], y - reach[1], x + reach[2], y + reach[3]]
        expected.append((box, max(scores[cell]), int(np.argmax(scores[cell]))))
    assert 0 < len(expected) < row * row
    boxes, best, which = decode_level(scores, logits, side, min_score=0.6)
    np.testing.assert_allclose(boxes, [box for box, _, _ in expected], rtol=1e-4, atol=1e-3)
    assert best.tolist() == [score for _, score, _ in expected]
    assert which.tolist() == [label for _, _, label in expected]


def test_decode_level_of_a_grid_that_reaches_beyond() -> None:
    scores = np.zeros((49, 1), np.float32)  # 7 x 7 cells of 64 pixels, of an image of 416
    scores[-1] = 1
    logits = np.full((49, 4, 8), -50.0, np.float32)
    logits[:, :, 1] = 50  # one stride to each side
    boxes, _, _ = decode_level(scores, logits.reshape(49, 32), 416, min_score=0.5)
    assert boxes.round(3).tolist() == [[352, 352, 480, 480]]


def test_decode_level_without_confident_cells() -> None:
    boxes, best, which = decode_level(
        np.zeros((4, 2), np.float32), np.zeros((4, 32), np.float32), 16, min_score=0.5
    )
    assert (boxes.shape, best.shape, which.shape) == ((0, 4), (0,), (0,))


def test_logits_of_any_size_decode() -> None:
    logits = np.full((1, 32), 1e4, np.float32)
    boxes, _, _ = decode_level(np.ones((1, 1), np.float32), logits, 64, min_score=0.5)
    assert boxes.tolist() == [[32 - 224, 32 - 224, 32 + 224, 32 + 224]]  # 3.5 strides


def test_coco_names() -> None:
    names = coco_names()
    assert (len(names), names[0], names[16], names[-1]) == (80, "person", "dog", "toothbrush")


IMAGE = [1, 3, 64, 64]
SCORES = [[1, 64, 5], [1, 16, 5]]
DISTANCES = [[1, 64, 32], [1, 16, 32]]


def test_layouts() -> None:
    assert is_layout([IMAGE], SCORES + DISTANCES)
    assert is_layout([IMAGE], [SCORES[0], DISTANCES[0]])


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([], SCORES + DISTANCES),
        ([IMAGE, [1, 2]], SCORES + DISTANCES),  # a scale besides: its NMS is inside
        ([[1, 3, "height", "width"]], SCORES + DISTANCES),
        ([[1, 3, 64, 32]], SCORES + DISTANCES),
        ([IMAGE], []),
        ([IMAGE], SCORES + DISTANCES[:1]),
        ([IMAGE], [SCORES[0], DISTANCES[0], SCORES[1], DISTANCES[1]]),
        ([IMAGE], SCORES + DISTANCES[::-1]),
        ([IMAGE], [[1, 64, 5], [1, 64, 30]]),
        ([IMAGE], [[100, 6], [1]]),
    ],
)
def test_other_layouts(inputs: list[list[int]], outputs: list[list[int]]) -> None:
    assert not is_layout(inputs, outputs)


@pytest.mark.parametrize("data", [b"", b"<html>404</html>"])
def test_what_is_no_model(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.onnx: not an ONNX model"):
        PicoDet(RegionConfig(detector="onnx", weights=str(tmp_path / "model.onnx")), 1)


def test_class_names(tmp_path: Path) -> None:
    uri = str(tmp_path / "model.v2.onnx")
    assert class_names(uri, 80) == coco_names()
    with pytest.raises(ValueError, match=r"2 classes, but 80 names; .* to .*model\.v2\.names"):
        class_names(uri, 2)
    (tmp_path / "model.v2.names").write_text("one\ntwo\n")
    assert class_names(uri, 2) == ["one", "two"]


@pytest.fixture(scope="session")
def model(vsa_data: Path) -> Path:
    file = vsa_data / "weights" / "picodet_s" / "picodet_s_320_coco.onnx"
    if not file.exists():
        pytest.skip(f"VSA_DATA={vsa_data}: no weights/picodet_s in it")
    return file


@pytest.mark.data
def test_people_and_a_dog(model: Path, flickr8k: Path) -> None:
    detect = PicoDet(RegionConfig(detector="onnx", weights=str(model)), 1)
    files = ["1022454332_6af2c1449a.jpg", "1001773457_577c3a7d70.jpg"]
    people, dogs = detect([np.asarray(Image.open(flickr8k / "images" / f)) for f in files])
    assert people.labels[:2] == ["person", "person"]
    # The one who stands at the water, as a person drew it.
    np.testing.assert_allclose(people.boxes[0], [173, 138, 246, 240], atol=10)
    assert dogs.labels[:1] == ["dog"]
    for found in (people, dogs):
        assert len(found.boxes) <= 19
        assert (found.boxes <= [320, 240, 320, 240]).all()
        assert (np.diff(found.scores) <= 0).all()
        assert found.scores.min() >= 0.05
