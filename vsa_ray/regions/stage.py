"""The stages from loaded images to regions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vsa_ray import schema
from vsa_ray.errors import UserError
from vsa_ray.images import Pixels, pixels_of
from vsa_ray.regions.config import RegionConfig

if TYPE_CHECKING:
    import torch

    from vsa_ray.regions.detectors import Detections, Detector, Floats
    from vsa_ray.regions.features import RegionFeatures

# Networks and their libraries are imported where they are built, in the workers: the driver only
# refers to these classes, and should not have to load them for seconds.

THREADS = 1
"""Threads per worker: without GPUs, jobs start one worker per CPU."""


class _DescribeRegions(ABC):
    """Stage: a table of images.LOADED in, schema.REGIONS out. Failed images pass through.

    An image's row does not depend on the other images in its batch.
    """

    _describe: RegionFeatures

    def __call__(self, table: pa.Table) -> pa.Table:
        images = pixels_of(table)
        loaded = {i: image for i, image in enumerate(images) if image is not None}
        image_ids = [table["image_id"][i].as_py() for i in loaded]
        found = self._regions(image_ids, list(loaded.values()))
        regions = dict(zip(loaded, found, strict=True))
        nothing = _Regions.nothing(self._describe.feature_dim)
        rows = [regions.get(i, nothing) for i in range(len(images))]
        columns = {name: table[name] for name in schema.REGIONS.names if name in table.column_names}
        columns |= {
            "boxes": schema.nested(
                [*in_pictures([row.boxes for row in rows], table)], pa.float32()
            ),
            "scores": [row.scores for row in rows],
            "labels": [row.labels for row in rows],
            "features": schema.nested([row.features for row in rows], pa.float16()),
        }
        return pa.table(columns, schema=schema.REGIONS)

    def _regions(self, image_ids: list[str], images: list[Pixels]) -> list[_Regions]:
        detections = self._find(image_ids, images)
        boxes = [
            np.vstack([whole(image.shape[1], image.shape[0]), found.boxes])
            for image, found in zip(images, detections, strict=True)
        ]
        return [
            _Regions(all_boxes, np.append(np.float32(1), found.scores), ["", *found.labels], rows)
            for all_boxes, found, rows in zip(
                boxes, detections, self._describe(images, boxes), strict=True
            )
        ]

    @abstractmethod
    def _find(self, image_ids: list[str], images: list[Pixels]) -> list[Detections]:
        """The boxes of each image."""


class DetectRegions(_DescribeRegions):
    """Regions are the boxes found by a detector."""

    def __init__(self, config: RegionConfig) -> None:
        """Load the models.

        Raises:
            UserError: as RegionConfig.check; or weights do not fit, or there is no GPU for cuda.
        """
        config.check()
        device = _device(config)
        self._describe = _load_features(config, device)
        self._detect = make_detector(config, THREADS, device)

    def _find(self, image_ids: list[str], images: list[Pixels]) -> list[Detections]:
        return self._detect(images)


class DescribeBoxes(_DescribeRegions):
    """Regions are given boxes, such as human-drawn ones, with a confidence of 1."""

    def __init__(self, config: RegionConfig, boxes: pa.Table) -> None:
        """Load the backbone.

        Args:
            boxes: image_id, and boxes as fractions of the image's width and height.

        Raises:
            UserError: as DetectRegions.
        """
        columns = boxes["image_id"].to_pylist(), schema.matrices(boxes["boxes"], 4)
        self._boxes = dict(zip(*columns, strict=True))
        self._describe = _load_features(config, _device(config))

    def _find(self, image_ids: list[str], images: list[Pixels]) -> list[Detections]:
        from vsa_ray.regions.detectors import Detections

        none = np.empty((0, 4), np.float32)
        found = []
        for image_id, image in zip(image_ids, images, strict=True):
            corner = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
            boxes = (self._boxes.get(image_id, none) * corner).astype(np.float32)
            found.append(Detections(boxes, np.ones(len(boxes), np.float32), [""] * len(boxes)))
        return found


def _load_features(config: RegionConfig, device: torch.device) -> RegionFeatures:
    import torch

    from vsa_ray.regions.features import RegionFeatures

    torch.set_num_threads(THREADS)
    return RegionFeatures(config, device)


@dataclass(frozen=True, slots=True)
class _Regions:
    """The region columns of an image's row: the whole image and its detections."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: list[str]
    features: npt.NDArray[np.float16]

    @classmethod
    def nothing(cls, feature_dim: int) -> _Regions:
        """Regions of an image that could not be loaded."""
        features = np.empty((0, feature_dim), np.float16)
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), [], features)


def in_pictures(boxes: list[Floats], table: pa.Table) -> Iterator[Floats]:
    """Convert boxes from pixels of the loaded, perhaps downscaled images to original pixels.

    Args:
        boxes: (R, 4) for each row of `table`; the first box is the whole image.
    """
    names = ("width", "height", "pixels_width", "pixels_height")
    sizes = zip(*(table[name].to_pylist() for name in names), strict=True)
    for each, (width, height, pixels_width, pixels_height) in zip(boxes, sizes, strict=True):
        if (width, height) == (pixels_width, pixels_height):
            yield each
            continue
        corner = np.array([width, height] * 2, np.float32)
        scale = np.array([width / pixels_width, height / pixels_height] * 2, np.float32)
        yield np.vstack([whole(width, height), np.minimum(each[1:] * scale, corner)])


def whole(width: int, height: int) -> Floats:
    """(1, 4): region 0."""
    return np.array([[0, 0, width, height]], np.float32)


def make_detector(config: RegionConfig, threads: int, device: torch.device) -> Detector:
    match config.detector:
        case "selective-search":
            from vsa_ray.regions.selective_search import SelectiveSearch

            return SelectiveSearch(config, threads)
        case "onnx":
            from vsa_ray.regions.picodet import PicoDet

            return PicoDet(config, threads)
        case "torchvision":
            from vsa_ray.regions.torchvision_models import TorchvisionDetector

            return TorchvisionDetector(config, device)


def _device(config: RegionConfig) -> torch.device:
    import torch

    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UserError("regions.device is cuda, but this worker has no GPU; use auto")
    wanted = config.device if config.device != "auto" else "cuda" if available else "cpu"
    return torch.device(wanted)
