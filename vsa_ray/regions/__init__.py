"""Images to regions: the whole image, up to 19 boxes, and one CNN feature each.

config.py              RegionConfig, and what can be checked of it before a job starts
origins.py             how regions were made, as their tables and models say it
detectors.py           what a detector is; which boxes of one are kept
selective_search.py    R-CNN's proposals: no weights
picodet.py             a small trained detector in ONNX Runtime: for CPUs
torchvision_models.py  Faster R-CNN and its relatives: for GPUs
features.py            one pass of a CNN over an image, RoIAlign of its regions
weights.py             weight files to state dicts
batching.py            images of one shape together, so that nothing is padded
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
