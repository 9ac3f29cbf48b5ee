"""CNN features of regions: one pass over the image, then RoIAlign to one mean vector per region.

With RegionConfig.maps > 1 the means over several of the network's maps are concatenated.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import roi_align

from vsa_ray.errors import UserError
from vsa_ray.images import Pixels
from vsa_ray.regions.batching import alike, resize
from vsa_ray.regions.config import STRIDE, RegionConfig
from vsa_ray.regions.detectors import Floats
from vsa_ray.regions.weights import PYPI, fit_by_name, fit_in_order, packaged, read_state_dict

BATCH = {"cuda": 32, "cpu": 1}
"""Images per batch. A CPU gains nothing from more than one, which also makes the result exactly
independent of the batch."""

MULTIPLIES_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""CPU capabilities, the last one ARM's. Other CPUs emulate bfloat16, slower than float32."""

LARGEST = torch.finfo(torch.float16).max

SAMPLES = 7
"""A region's feature is the mean over a grid of SAMPLES x SAMPLES points."""


class RegionFeatures:
    """A timm CNN, its last maps pooled over each region."""

    def __init__(self, config: RegionConfig, device: torch.device) -> None:
        """Raises UserError if the weights do not fit, or the network has no feature map."""
        self.config = config
        self.device = device
        self._dtype = precision(config, device)
        model = with_folded_norms(make_backbone(config))
        if config.maps > 1 and not hasattr(model, "forward_intermediates"):
            raise UserError(
                f"regions.maps is {config.maps}, but timm gives only the last map of "
                f"{config.backbone}; set it to 1, or choose another backbone"
            )
        if device.type == "cpu":
            # Not autocast: without gradients it would convert all weights again for every image.
            model = model.to(self._dtype)
        self._model = model.to(device).to(memory_format=torch.channels_last)
        trained = timm.get_pretrained_cfg(config.backbone)
        assert trained is not None, "RegionConfig.check knows the name"
        self._mean, self._std = (
            255 * torch.tensor(values, device=device).view(3, 1, 1)
            for values in (trained.mean, trained.std)
        )
        probes = self._maps(torch.zeros((1, 3, 2 * STRIDE, 4 * STRIDE), dtype=torch.uint8))
        for probe in probes:
            if probe.dim() != 4 or probe.shape[3] != 2 * probe.shape[2]:
                raise UserError(
                    f"regions.backbone: {config.backbone} makes {tuple(probe.shape)} from an "
                    "image, not a map of (1, F, h, w); choose a convolutional network"
                )
        self.feature_dim: int = sum(probe.shape[1] for probe in probes)

    def __call__(
        self, images: Sequence[Pixels], boxes: Sequence[Floats]
    ) -> list[npt.NDArray[np.float16]]:
        """(R, F) features for each image, given its (R, 4) boxes."""
        features: dict[int, npt.NDArray[np.float16]] = {}
        sizes = [input_size(image, self.config.image_side) for image in images]
        for group in alike(sizes, BATCH[self.device.type]):
            maps = self._maps(torch.stack([resize(images[i], *sizes[i]) for i in group]))
            pooled_RF = torch.cat(
                [
                    roi_align(
                        one,
                        [self._on_map(boxes[i], images[i], one) for i in group],
                        output_size=1,
                        sampling_ratio=SAMPLES,
                        aligned=True,
                    ).flatten(1)
                    for one in maps
                ],
                dim=1,
            )
            # As large as float16 holds, and not infinite: one such number would spoil all training.
            pooled_RF = pooled_RF.clamp(-LARGEST, LARGEST)
            each = pooled_RF.half().cpu().split([len(boxes[i]) for i in group])
            features |= {i: rows.numpy() for i, rows in zip(group, each, strict=True)}
        return [features[i] for i in range(len(images))]

    @torch.inference_mode()
    def _maps(self, images: Tensor) -> list[Tensor]:
        """(B, F, h, w) float32 from (B, 3, H, W) uint8, the last map first; F, h and w differ."""
        batch = (images.to(self.device) - self._mean) / self._std
        batch = batch.contiguous(memory_format=torch.channels_last)
        if self.device.type == "cpu":
            batch = batch.to(self._dtype)
        half = self.device.type == "cuda" and self._dtype == torch.float16
        with torch.autocast(self.device.type, enabled=half):
            if self.config.maps == 1:
                return [self._model(batch).float()]
            network: Any = self._model
            last, earlier = network.forward_intermediates(batch, indices=self.config.maps)
        # In networks without layers after the last stage, `last` is that stage's map.
        maps = [last, *(one for one in reversed(earlier) if one is not last)]
        return [one.float() for one in maps[: self.config.maps]]

    def _on_map(self, boxes: Floats, image: Pixels, one: Tensor) -> Tensor:
        """Convert image pixels to map cells; the two axes have slightly different scales."""
        height, width = image.shape[:2]
        scale = [one.shape[3] / width, one.shape[2] / height] * 2
        return torch.from_numpy(boxes * np.array(scale, np.float32)).to(self.device)


def precision(config: RegionConfig, device: torch.device) -> torch.dtype:
    """The number format of the backbone on this machine."""
    if config.precision == "float32":
        return torch.float32
    if device.type == "cuda":
        return torch.float16
    able = torch.cpu.get_capabilities()
    has_bfloat16 = any(able.get(name) for name in MULTIPLIES_BFLOAT16)
    return torch.bfloat16 if has_bfloat16 else torch.float32


def input_size(image: Pixels, side: int) -> tuple[int, int]:
    """Height and width for the CNN: `side` for the longer one, a multiple of the stride for both.

    This leaves few sizes, so a batch has many images of each.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width) / STRIDE
    return max(1, round(height * scale)) * STRIDE, max(1, round(width * scale)) * STRIDE


def make_backbone(config: RegionConfig) -> nn.Module:
    """The CNN with its weights, up to its last map, in evaluation mode.

    Raises:
        UserError: the weights do not fit.
    """
    source = config.backbone_weights
    model: nn.Module = timm.create_model(
        config.backbone, pretrained=source == "timm", num_classes=0, global_pool=""
    )
    if source.startswith(PYPI):
        # These packages use the parameter names of another port of the network.
        fit_in_order(model, read_state_dict(packaged(source)), source)
    elif source not in ("timm", "random"):
        fit_by_name(model, read_state_dict(source), source)
    return model.eval()


@torch.no_grad()
def with_folded_norms(model: nn.Module) -> nn.Module:
    """The same network with batch norms folded into the convolutions before them: 1.2x faster.

    A norm is assumed to follow the convolution declared just before it. If that is wrong for a
    network, the comparison at the end detects it, and the model is returned unchanged.
    """
    folded = copy.deepcopy(model)
    for module in list(folded.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if (
                isinstance(conv, nn.Conv2d)
                and isinstance(norm, nn.BatchNorm2d)
                and conv.out_channels == norm.num_features
            ):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, getattr(norm, "act", nn.Identity()))
    probe = torch.linspace(-1, 1, 3 * (2 * STRIDE) ** 2).view(1, 3, 2 * STRIDE, 2 * STRIDE)
    return folded if torch.allclose(model(probe), folded(probe), rtol=1e-3, atol=1e-3) else model
