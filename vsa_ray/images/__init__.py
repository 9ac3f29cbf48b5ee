"""Rows of URIs or bytes to decoded images; the broken ones stay, marked with a reason.

A corpus of millions always holds some images that are missing, cut short, or no image at all. None
of them stops a job: `LoadImages` turns every row into pixels or into a status and an error, and the
stages after it pass such rows on. Only storage that fails altogether stops it (StorageOutage).
"""

from vsa_ray.images.decoding import FORMATS, PILLOW_LIMIT, Pixels, decode
from vsa_ray.images.failures import ImageError, Kind, PassingError
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
    "PassingError",
    "Pixels",
    "StorageOutage",
    "decode",
    "load",
    "pixels_of",
]
