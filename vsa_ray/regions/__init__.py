"""From images to regions: the whole image and up to 19 boxes, with one CNN feature each.

config.py              RegionConfig, and checks that run before a job starts
origins.py             the settings regions were made with, as recorded in tables and models
detectors.py           the interface of a detector, and the selection of its boxes
selective_search.py    R-CNN's proposals: no weights
picodet.py             a small trained detector in ONNX Runtime: for CPUs
torchvision_models.py  Faster R-CNN and its relatives: for GPUs
features.py            one pass of a CNN over the image, and RoIAlign of its regions
weights.py             loads weight files as state dicts
batching.py            groups images by shape, so that nothing is padded
stage.py               DetectRegions: loaded images in, regions out; DescribeBoxes for given boxes
"""

from vsa_ray.regions.config import RegionConfig
from vsa_ray.regions.origins import learned_from, learning_from, made_with
from vsa_ray.regions.stage import DescribeBoxes, DetectRegions

__all__ = [
    "DescribeBoxes",
    "DetectRegions",
    "RegionConfig",
    "learned_from",
    "learning_from",
    "made_with",
]
