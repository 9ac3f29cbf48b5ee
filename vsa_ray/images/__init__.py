"""Decode images from rows of URIs or bytes; broken ones are kept as rows with a reason.

A corpus of millions always contains some files that are missing, truncated, or not images. None of
them stops a job: `LoadImages` turns every row into pixels or into a status and an error, and later
stages pass failed rows through. Only complete storage failure stops it (StorageOutage).
"""

from vsa_ray.images.decoding import FORMATS, PILLOW_LIMIT, Pixels, decode
from vsa_ray.images.failures import ImageError, Kind, TransientError
from vsa_ray.images.reading import SOURCES
from vsa_ray.images.stage import LOADED, ImageConfig, LoadImages, load, pixels_of
from vsa_ray.s3 import StorageOutage

__all__ = [
    "FORMATS",
    "LOADED",
    "PILLOW_LIMIT",
    "SOURCES",
    "ImageConfig",
    "ImageError",
    "Kind",
    "LoadImages",
    "Pixels",
    "StorageOutage",
    "TransientError",
    "decode",
    "load",
    "pixels_of",
]
