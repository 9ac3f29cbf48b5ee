"""Cost per image on one thread of decoding, each detector and features; and the boxes' recall.

    python -m bench.regions FOLDER                              half a minute, any pictures
    python -m bench.regions FOLDER --onnx picodet.onnx
    python -m bench.regions FLICKR8K --phrases annotations.tar.xz

CPU milliseconds, which a busy machine hardly affects. With --phrases (Flickr30k Entities; FOLDER is
then the corpus), also the share of phrases of dev images whose box is among the regions at IoU 0.5.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import tyro
from torchvision.ops import box_iou

from bench.machine import machine
from vsa_ray.corpora import ReaderConfig, read_corpus
from vsa_ray.images import ImageConfig, LoadImages, Pixels, pixels_of
from vsa_ray.regions import RegionConfig
from vsa_ray.regions.detectors import Floats
from vsa_ray.regions.features import (
    RegionFeatures,
    make_backbone,
    precision,
    with_folded_norms,
)
from vsa_ray.regions.stage import make_detector, whole


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    folder: Annotated[str, tyro.conf.Positional]
    onnx: str = ""
    """A detector in PicoDet's layout to measure as well."""

    phrases: str = ""
    images: int = 100


def main(config: BenchConfig) -> None:
    torch.set_num_threads(1)
    print(machine())
    table, phrases = pictures(config)
    start = time.process_time()
    loaded = LoadImages(ImageConfig())(table)
    seconds = time.process_time() - start
    ids = loaded["image_id"].to_pylist()
    images = {i: im for i, im in zip(ids, pixels_of(loaded), strict=True) if im is not None}
    height, width = np.mean([image.shape[:2] for image in images.values()], axis=0)
    print(
        f"{len(images)} of {len(ids)} images, {width:.0f} x {height:.0f} on average; ms an image:"
    )
    report("load and decode", seconds / len(images))

    regions = measure_detector(RegionConfig(), images, phrases)
    if config.onnx:
        detector = RegionConfig(detector="onnx", weights=config.onnx)
        regions = measure_detector(detector, images, phrases)

    describe = RegionFeatures(RegionConfig(), torch.device("cpu"))
    start = time.process_time()
    describe(list(images.values()), list(regions.values()))
    mean = np.mean([len(boxes) for boxes in regions.values()])
    report(f"features of {mean:.0f} regions", (time.process_time() - start) / len(images))
    compare_backbones()


def pictures(config: BenchConfig) -> tuple[pa.Table, pa.Table]:
    """An images table, and the phrases of its images (empty if not requested)."""
    if not config.phrases:
        corpus = read_corpus(config.folder, ReaderConfig(format="folder"))
        return corpus.images.slice(0, config.images), corpus.phrases
    reader = ReaderConfig(phrases=config.phrases, max_train=1, max_dev=config.images, max_test=1)
    corpus = read_corpus(config.folder, reader)
    in_dev = pc.field("split") == "dev"
    return corpus.images.filter(in_dev), corpus.phrases.filter(in_dev)


def measure_detector(
    config: RegionConfig, images: dict[str, Pixels], phrases: pa.Table
) -> dict[str, Floats]:
    """Measure a detector -> the regions it finds, by image."""
    detect = make_detector(config, 1, torch.device("cpu"))
    start = time.process_time()
    found = detect(list(images.values()))
    report(config.detector, (time.process_time() - start) / len(images))
    regions = {
        image_id: np.vstack([whole(image.shape[1], image.shape[0]), detections.boxes])
        for (image_id, image), detections in zip(images.items(), found, strict=True)
    }
    hits = [
        hit for row in phrases.to_pylist() for hit in covered(row, images, regions[row["image_id"]])
    ]
    if hits:
        print(f"  {'':34} holds {np.mean(hits):.1%} of {len(hits)} phrases at IoU 0.5")
    return regions


def covered(row: dict[str, Any], images: dict[str, Pixels], regions: Floats) -> list[bool]:
    """For each phrase of a sentence, whether a region has an IoU of 0.5 with one of its boxes."""
    height, width = images[row["image_id"]].shape[:2]
    scale = torch.tensor([width / row["width"], height / row["height"]] * 2)
    return [
        bool((box_iou(torch.from_numpy(regions), torch.tensor(p["boxes"]) * scale) >= 0.5).any())
        for p in row["phrases"]
    ]


def compare_backbones() -> None:
    """Time the backbone as made by timm, and with each optimisation of RegionFeatures."""
    plain = make_backbone(RegionConfig())
    folded = with_folded_norms(plain)
    last = torch.channels_last
    steps = {
        "as timm makes it": (plain, torch.contiguous_format, torch.float32),
        "channels last": (plain, last, torch.float32),
        "and batch norms folded": (folded, last, torch.float32),
        "and bfloat16": (folded, last, torch.bfloat16),
    }
    images = torch.randn(1, 3, 288, 384, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = plain(images)
        for name, (model, layout, dtype) in steps.items():
            variant = copy.deepcopy(model).to(dtype).to(memory_format=layout)
            batch = images.to(dtype).contiguous(memory_format=layout)
            apart = float((variant(batch) - expected).norm() / expected.norm())
            start = time.process_time()
            for _ in range(20):
                variant(batch)
            seconds = (time.process_time() - start) / 20
            report(f"backbone, {name}", seconds, f"{apart:.0e} of it apart")
    used = str(precision(RegionConfig(), torch.device("cpu"))).removeprefix("torch.")
    print(f"  RegionFeatures takes {used} on this machine")


def report(name: str, seconds: float, note: str = "") -> None:
    print(f"  {name:34} {1e3 * seconds:7.1f}  {note}".rstrip())


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
