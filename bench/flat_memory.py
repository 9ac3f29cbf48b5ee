"""Memory and time per image of jobs.caption_corpus, on corpora 10 and 100 times as large.

    python -m bench.flat_memory                      1,000, 10,000 and 100,000 images
    python -m bench.flat_memory 1000 5000

Drawn pictures of 16 x 16 pixels in tar files of 1,000, the smallest of timm's test networks with
random weights, two regions per image, a captioner with 8 hidden units that writes 3 words greedily:
there is almost no computation, so the numbers show what the job itself needs. Batches are of 16, as
by default, so 100,000 images are 6,250 slices and 1,600 files.

Peaks in MiB, of the largest process of each kind: the driver; the actors that hold the models; the
workers that run tasks (reading, loading, writing); Ray's raylet and gcs_server. Only private memory
counts: the mapped object store is counted once, as the store. Times are from the first written file
to the last. The goal is that no column grows with the corpus.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image

from bench.machine import machine
from bench.processes import Run, run_job
from vsa_ray import checkpoints
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN
from vsa_ray.regions import RegionConfig
from vsa_ray.regions.features import RegionFeatures
from vsa_ray.vocabulary import Vocabulary

SHARD_IMAGES = 1000
REGIONS = RegionConfig(
    backbone="test_resnet", backbone_weights="random", image_side=32, max_boxes=1
)
COLUMNS = ("driver", "actor", "worker", "raylet", "gcs_server", "store")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    images: Annotated[tuple[int, ...], tyro.conf.Positional] = (1_000, 10_000, 100_000)
    """Sizes of the corpus, multiples of 1,000."""


def make_shards(folder: Path, images: int) -> None:
    """Identical tar files; ids differ by their names."""
    folder.mkdir()
    first = folder / "0000.tar"
    rng = np.random.default_rng(0)
    with tarfile.open(first, "w") as tar:
        for i in range(SHARD_IMAGES):
            data = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(data, "PNG")
            member = tarfile.TarInfo(f"{i:04}.png")
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))
    for i in range(1, images // SHARD_IMAGES):
        os.link(first, folder / f"{i:04}.tar")


def make_captioner(folder: Path) -> None:
    torch.manual_seed(0)
    model = MultimodalRNN(
        CaptionerConfig(hidden_dim=8, word_dim=4),
        feature_dim=RegionFeatures(REGIONS, torch.device("cpu")).feature_dim,
        vocabulary_size=6,
        log_frequencies_V=None,
    )
    words = ("a", "dog", "ball", "red", "runs")
    checkpoints.save(str(folder), model, Vocabulary(words, (5, 4, 3, 2, 1), 5))


def run(folder: Path, images: int) -> Run:
    shards = folder / f"shards-{images}"
    make_shards(shards, images)
    flags = ["--images", str(shards), "--mrnn", str(folder / "mrnn")]
    flags += ["--regions.backbone", REGIONS.backbone]
    flags += ["--regions.backbone-weights", REGIONS.backbone_weights]
    flags += ["--regions.image-side", str(REGIONS.image_side)]
    flags += ["--regions.max-boxes", str(REGIONS.max_boxes)]
    flags += ["--captions.beam-size", "1", "--captions.max-words", "3"]
    return run_job("caption_corpus", flags, folder / f"captions-{images}")


def main(config: BenchConfig) -> None:
    print(machine())
    print("  images", *(f"{name:>10}" for name in COLUMNS), "  ms/image  CPU ms/image", flush=True)
    with tempfile.TemporaryDirectory() as name:
        make_captioner(Path(name) / "mrnn")
        for images in config.images:
            done = run(Path(name), images)
            print(
                f"{done.rows:8,}",
                *(f"{done.usage.peak_mib[column]:10.0f}" for column in COLUMNS),
                f"{1e3 * done.writing_seconds / done.rows:10.2f}"
                f"{1e3 * done.usage.cpu_seconds() / done.rows:14.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(BenchConfig, description=__doc__))
