from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.efficientnet import EfficientNet
from torch import nn
from torchvision.ops import roi_align

from vsa_ray.errors import UserError
from vsa_ray.images import Pixels
from vsa_ray.regions import RegionConfig
from vsa_ray.regions.batching import alike
from vsa_ray.regions.features import (
    SAMPLES,
    RegionFeatures,
    input_size,
    make_backbone,
    precision,
    with_folded_norms,
)

CPU = torch.device("cpu")


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """Blots of colour, as large as an eighth of the picture."""
    rng = np.random.default_rng(seed)
    blots = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    return np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC))


def whole(image: Pixels) -> np.ndarray:
    return np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)


@pytest.fixture(scope="module")
def describe() -> RegionFeatures:
    return RegionFeatures(RegionConfig(image_side=128, precision="float32"), CPU)


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        ({}, torch.float32),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
    ],
)
def test_precision(
    abilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert precision(RegionConfig(), CPU) == expected
    assert precision(RegionConfig(), torch.device("cuda")) == torch.float16
    for device in (CPU, torch.device("cuda")):
        assert precision(RegionConfig(precision="float32"), device) == torch.float32


def test_features_in_bfloat16_are_those_of_float32(
    describe: RegionFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    in_half = RegionFeatures(RegionConfig(image_side=128), CPU)
    image = noise(96, 128)
    boxes = [np.vstack([whole(image), whole(image) / 2])]
    exact_RF, rounded_RF = (
        make([image], boxes)[0].astype(np.float64) for make in (describe, in_half)
    )
    assert 0 < np.linalg.norm(rounded_RF - exact_RF) < 0.1 * np.linalg.norm(exact_RF)


def test_features_are_those_of_the_network_as_it_was_trained(describe: RegionFeatures) -> None:
    """Neither folding nor the layout in memory is seen in them."""
    image = noise(96, 128)
    model = make_backbone(RegionConfig())
    pixels = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None] - describe._mean).div(
        describe._std
    )
    with torch.inference_mode():
        expected = model(pixels)
    (maps,) = describe._maps(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3)


def test_alike() -> None:
    assert list(alike("abacaba", 2)) == [[0, 2], [4, 6], [1, 5], [3]]
    assert list(alike([], 2)) == []


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(240, 320, (288, 384)), (320, 240, (384, 288)), (500, 333, (384, 256)), (1, 1, (384, 384))],
)
def test_input_size(height: int, width: int, expected: tuple[int, int]) -> None:
    assert input_size(np.zeros((height, width, 3), np.uint8), 384) == expected


def test_input_size_of_a_strip() -> None:
    assert input_size(np.zeros((5000, 3, 3), np.uint8), 384) == (384, 32)


def test_a_feature_is_the_mean_of_points_of_its_region(describe: RegionFeatures) -> None:
    """RoIAlign written as loops: bilinear at SAMPLES x SAMPLES points, centres of cells at .5."""
    image = noise(96, 128)
    box = [20.0, 10.0, 100.0, 90.0]
    (feature_RF,) = describe([image], [np.array([box], np.float32)])
    (maps,) = describe._maps(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    map_Fhw = maps[0].numpy()
    h, w = map_Fhw.shape[1:]
    expected_F = np.zeros(len(map_Fhw))
    for row in range(SAMPLES):
        for column in range(SAMPLES):
            y = (box[1] + (row + 0.5) / SAMPLES * (box[3] - box[1])) * h / 96 - 0.5
            x = (box[0] + (column + 0.5) / SAMPLES * (box[2] - box[0])) * w / 128 - 0.5
            y, x = max(y, 0), max(x, 0)
            top, left = math.floor(y), math.floor(x)
            for r, share_y in ((top, 1 - y + top), (top + 1, y - top)):
                for c, share_x in ((left, 1 - x + left), (left + 1, x - left)):
                    cell_F = map_Fhw[:, min(r, h - 1), min(c, w - 1)]
                    expected_F += cell_F * share_y * share_x / SAMPLES**2
    np.testing.assert_allclose(feature_RF[0], expected_F, atol=2e-3)


@pytest.mark.parametrize(("factor", "largest"), [(1e5, 65504), (-1e5, -65504)])
def test_features_too_large_for_their_table_stay_finite(
    factor: float, largest: float, describe: RegionFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = describe._maps
    monkeypatch.setattr(describe, "_maps", lambda images: [factor * one for one in exact(images)])
    (feature_RF,) = describe([noise(96, 128)], [whole(noise(96, 128))])
    assert np.isfinite(feature_RF).all()
    assert (feature_RF == largest).any()


def test_features_do_not_depend_on_the_batch(describe: RegionFeatures) -> None:
    pictures = [noise(96, 128, 1), noise(128, 96, 2), noise(96, 128, 3), noise(50, 200, 4)]
    boxes = [np.vstack([whole(p), whole(p) / 2]) for p in pictures]
    together = describe(pictures, boxes)
    for picture, box, rows in zip(pictures, boxes, together, strict=True):
        assert rows.dtype == np.float16
        assert rows.shape == (2, describe.feature_dim) == (2, 1280)
        np.testing.assert_array_equal(describe([picture], [box])[0], rows)


def test_features_of_nothing(describe: RegionFeatures) -> None:
    assert describe([], []) == []


def test_folding_batch_norms_changes_nothing() -> None:
    model = make_backbone(RegionConfig())
    folded = with_folded_norms(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    batch = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(folded(batch), model(batch), rtol=1e-4, atol=1e-4)


def test_folding_leaves_a_network_whose_norms_come_in_another_order() -> None:
    class NormFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.norm = nn.BatchNorm2d(3)
            self.norm.running_mean = torch.tensor([0.3, -0.5, 0.1])

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.conv(self.norm(batch))
            return out.relu()

    torch.manual_seed(0)  # one draw of 200 is 0 everywhere, and folding changes nothing
    model = NormFirst().eval()
    assert with_folded_norms(model) is model


@pytest.mark.parametrize(
    ("backbone", "widths"),
    [("tf_efficientnet_lite0", (1280, 320, 112)), ("resnet18", (512, 256, 128))],
)
def test_features_of_several_maps_stand_side_by_side(
    backbone: str, widths: tuple[int, ...]
) -> None:
    """A resnet ends with its last stage, which then counts once."""
    config = RegionConfig(
        backbone=backbone, backbone_weights="random", image_side=128, precision="float32", maps=3
    )
    torch.manual_seed(0)
    describe = RegionFeatures(config, CPU)
    assert describe.feature_dim == sum(widths)
    image = noise(96, 128)
    maps = describe._maps(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    assert tuple(one.shape[1] for one in maps) == widths
    torch.manual_seed(0)
    alone = RegionFeatures(replace(config, maps=1), CPU)
    boxes = np.array([[0, 0, 128, 96], [20, 10, 90, 70]], np.float32)
    (features,), (last,) = describe([image], [boxes]), alone([image], [boxes])
    np.testing.assert_array_equal(features[:, : widths[0]], last)
    # Each map's mean over points of the region, wherever it stands.
    for one, start in zip(maps, np.cumsum([0, *widths]), strict=False):
        box = torch.from_numpy(boxes[1:] * one.shape[3] / 128)
        pooled = roi_align(one, [box], 1, sampling_ratio=SAMPLES, aligned=True).flatten()
        own = features[1, start : start + one.shape[1]]
        np.testing.assert_allclose(own, pooled.numpy(), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("maps", [0, 5])
def test_maps_that_no_network_has(maps: int) -> None:
    with pytest.raises(ValueError, match=r"RegionConfig.maps must be in \[1, 4\], got"):
        RegionConfig(maps=maps)


def test_a_network_that_gives_its_last_map_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(EfficientNet, "forward_intermediates")
    with pytest.raises(UserError, match=r"regions.maps is 2, but timm gives only the last"):
        RegionFeatures(RegionConfig(image_side=128, maps=2), CPU)
