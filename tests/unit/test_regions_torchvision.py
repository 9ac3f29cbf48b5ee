from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import detection

from vsa_ray.errors import UserError
from vsa_ray.images import Pixels
from vsa_ray.regions import RegionConfig
from vsa_ray.regions.torchvision_models import TorchvisionDetector

NAME = "ssdlite320_mobilenet_v3_large"
CPU = torch.device("cpu")


def noise(height: int, width: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A state dict of a detector that has learned nothing, and takes everything for a dog."""
    torch.manual_seed(0)
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    with torch.no_grad():
        for block in model.head.classification_head.module_list:
            block[-1].bias.view(-1, 91)[:, 18] += 4  # COCO's dog
    file = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save(model.state_dict(), file)
    return str(file)


@pytest.fixture(scope="module")
def detector(weights: str) -> TorchvisionDetector:
    config = RegionConfig(detector="torchvision", architecture=NAME, weights=weights, max_boxes=7)
    config.check()
    return TorchvisionDetector(config, CPU)


def test_detections(detector: TorchvisionDetector) -> None:
    (found,) = detector([noise(60, 90, 0)])
    assert found.boxes.shape == (7, 4)
    assert set(found.labels) == {"dog"}
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [90, 60, 90, 60]).all()
    assert (found.boxes[:, 2:] - found.boxes[:, :2] >= 1).all()
    assert (np.diff(found.scores) <= 0).all()
    assert 0.05 <= found.scores.min() <= found.scores.max() <= 1


def test_detections_do_not_depend_on_the_batch(detector: TorchvisionDetector) -> None:
    pictures = [noise(60, 90, 0), noise(90, 60, 1), noise(60, 90, 2), noise(1, 1, 3)]
    for picture, together in zip(pictures, detector(pictures), strict=True):
        (alone,) = detector([picture])
        np.testing.assert_allclose(alone.boxes, together.boxes, atol=1e-2)
        np.testing.assert_allclose(alone.scores, together.scores, atol=1e-4)
        assert alone.labels == together.labels


def test_what_is_not_confident_is_left_out(weights: str) -> None:
    config = RegionConfig(
        detector="torchvision", architecture=NAME, weights=weights, min_score=0.999
    )
    (found,) = TorchvisionDetector(config, CPU)([noise(60, 90, 0)])
    assert found.boxes.shape == (0, 4)


def test_weights_of_another_detector(tmp_path: Path) -> None:
    file = tmp_path / "detector.pth"
    torch.save({"backbone.weight": torch.zeros(3)}, file)
    config = RegionConfig(detector="torchvision", architecture=NAME, weights=str(file))
    with pytest.raises(
        ValueError,
        match=r"detector\.pth, with 91 classes .*\.names, one per line\), does not fit the model",
    ):
        TorchvisionDetector(config, CPU)


def test_a_detector_of_other_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )
    with torch.no_grad():
        for block in model.head.classification_head.module_list:
            block[-1].bias.view(-1, 3)[:, 2] += 4
    file = tmp_path / "mine.pth"
    torch.save(model.state_dict(), file)
    config = RegionConfig(detector="torchvision", architecture=NAME, weights=str(file))
    with pytest.raises(
        UserError, match=r"with 91 classes \(other classes .*mine\.names, one per line"
    ):
        TorchvisionDetector(config, CPU)
    (tmp_path / "mine.names").write_text("screw\nsnow plough\n")
    (found,) = TorchvisionDetector(config, CPU)([noise(60, 90, 0)])
    assert set(found.labels) == {"snow plough"}


def test_very_oblong_images_hold_nothing(tmp_path: Path) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    file = tmp_path / "detector.pth"
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), file)
    config = RegionConfig(detector="torchvision", architecture=name, weights=str(file))
    sizes = [(1, 1600), (1600, 1), (1, 1), (1, 100), (160, 16)]
    found = TorchvisionDetector(config, CPU)([noise(*size, 0) for size in sizes])
    assert [len(one.boxes) for one in found[:2]] == [0, 0]
    assert all(np.isfinite(one.boxes).all() for one in found)
