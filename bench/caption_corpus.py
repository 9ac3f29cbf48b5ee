"""Images per second of the jobs on Ray, compared with a bare loop over the same images.

    VSA_DATA=FOLDER python -m bench.caption_corpus

Photographs of Flickr8k (FOLDER/data/flickr8k), PicoDet-S's boxes (FOLDER/weights/picodet_s),
EfficientNet-Lite0's features of up to 20 regions per image, and a sentence for each: hidden width
512, word vectors of 256, 2,538 ids, beam 7. The captioner's weights are random and END is
suppressed, so that every sentence has 11 words, the average of Flickr8k.

The loop is a single process that handles one batch after another (decode, detect, describe,
caption), on as many threads as there are CPUs, with its best batch size, and writes nothing. It
runs before and after each job. The jobs are the commands that a user types, with default settings
except that Ray's workers are not niced (Ray: 15), like the loop.

Steady state: a job runs on the first quarter of the images, and again on all of them; the
difference of the times from the first written file to the last is the cost of the other images.
One-time costs (starting Ray, loading models, listing, checking the table), and work done before the
first file is written, cancel out. The goal is a ratio of 0.9 to the mean of the loop's rounds; the
machine's speed changes from minute to minute, so the best round does not show what it was during a
job. The ratio to the best round is printed too.

CPU time is that of all processes of the job, including Ray's, relative to the loop's minimum, which
it reaches with one thread: several wait for each other. This is the harder comparison: processes
that share caches need more CPU time for the same work.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from bench.machine import load, machine
from bench.processes import Run, run_job
from vsa_ray import checkpoints
from vsa_ray.images import decode
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN, write_captions
from vsa_ray.regions import RegionConfig
from vsa_ray.regions.features import RegionFeatures
from vsa_ray.regions.stage import make_detector, whole
from vsa_ray.vocabulary import END, Vocabulary

Job = Literal["detect_regions", "caption_corpus"]

WORDS, BEAM_SIZE, VOCABULARY_SIZE = 11, 7, 2538
BATCH_SIZES = (1, 4, 16, 64)
MAX_PIXELS = 64_000_000
THREADS = os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    jobs: Annotated[tuple[Job, ...], tyro.conf.Positional] = ("detect_regions", "caption_corpus")
    images: int = 1024
    """Images per job; a second run takes only the first quarter."""

    loop_images: int = 64
    """Images per round of the loop."""


@dataclass(frozen=True, slots=True)
class Speed:
    images_per_second: float
    cpu_ms: float
    """CPU time per image, of all threads and processes."""


class Loop:
    """Decode, detect, describe and, with a captioner, caption."""

    def __init__(self, regions: RegionConfig, captioner: checkpoints.Captioner | None) -> None:
        self.config, self.captioner = regions, captioner
        self.describe = RegionFeatures(regions, torch.device("cpu"))
        self.use(THREADS)

    def use(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.detect = make_detector(self.config, threads, torch.device("cpu"))

    def __call__(self, files: list[Path], batch_size: int) -> Speed:
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(files), batch_size):
            self._batch(files[start : start + batch_size])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Speed(len(files) / wall, 1e3 * cpu / len(files))

    def _batch(self, files: list[Path]) -> None:
        images = [decode(file.read_bytes(), max_pixels=MAX_PIXELS) for file in files]
        boxes = [
            np.vstack([whole(image.shape[1], image.shape[0]), found.boxes])
            for image, found in zip(images, self.detect(images), strict=True)
        ]
        features = np.concatenate(self.describe(images, boxes))
        if self.captioner:
            model, vocabulary = self.captioner.model, self.captioner.vocabulary
            write_captions(model, vocabulary, features, beam_size=BEAM_SIZE, max_words=WORDS)


def try_settings(loop: Loop, files: list[Path]) -> dict[tuple[int, int], Speed]:
    """The loop's speed by number of threads, up to the number of CPUs, and batch size."""
    speeds = {}
    for threads in sorted({1, THREADS}):
        loop.use(threads)
        loop(files[:4], 4)
        for batch_size in BATCH_SIZES:
            speeds[threads, batch_size] = speed = loop(files, batch_size)
            print(
                f"  loop {speed.images_per_second:6.2f} images/s  {speed.cpu_ms:6.1f} CPU ms   "
                f"{threads} thread(s), batches of {batch_size}",
                flush=True,
            )
    return speeds


def make_captioner(folder: Path, feature_dim: int) -> checkpoints.Captioner:
    """An untrained captioner that never ends a sentence."""
    torch.manual_seed(0)
    model = MultimodalRNN(
        CaptionerConfig(),
        feature_dim=feature_dim,
        vocabulary_size=VOCABULARY_SIZE,
        log_frequencies_V=None,
    )
    with torch.no_grad():
        model.output.bias[END] = -1e4
    words = tuple(f"word{i}" for i in range(1, VOCABULARY_SIZE))
    checkpoints.save(str(folder), model, Vocabulary(words, (5,) * len(words), 30_000))
    return checkpoints.load_captioner(str(folder))


def compare(job: Job, files: list[Path], config: BenchConfig, loop: Loop, folder: Path) -> None:
    """Run the loop and the job alternately."""
    some = files[: config.loop_images]
    print(job)
    tried = try_settings(loop, some)
    threads, batch_size = max(tried, key=lambda setting: tried[setting].images_per_second)

    def turn() -> Speed:
        loop.use(threads)
        speed = loop(some, batch_size)
        loop.use(1)  # idle threads spin for a while, and the job needs the CPUs
        return speed

    turns = [turn()]
    runs = []
    for count in (len(files) // 4, len(files)):
        runs.append(run(job, files[:count], loop.config, folder))
        turns.append(turn())
    speeds = [one.images_per_second for one in turns]
    mean = sum(speeds) / len(speeds)
    cpu_ms = min(one.cpu_ms for one in (*turns, *tried.values()))
    steady, actors = steady_state(*runs)
    print(
        f"  loop {mean:6.2f} images/s in the mean of {', '.join(f'{one:.2f}' for one in speeds)} "
        f"({threads} thread(s), batches of {batch_size}); {cpu_ms:.1f} CPU ms an image at least\n"
        f"  job  {steady.images_per_second:6.2f} images/s in steady state; "
        f"{steady.cpu_ms:.1f} CPU ms an image, {actors:.1%} of it in the actors; {load()}\n"
        f"  ratio {steady.images_per_second / mean:.2f}, to the best turn "
        f"{steady.images_per_second / max(speeds):.2f}; of CPU time {cpu_ms / steady.cpu_ms:.2f}",
        flush=True,
    )


def steady_state(short: Run, long: Run) -> tuple[Speed, float]:
    """The cost of the images that only the long run had, and the actors' share of its CPU time."""
    rows = long.rows - short.rows
    wall = long.writing_seconds - short.writing_seconds
    cpu, in_actors = (
        long.usage.cpu_seconds(kind) - short.usage.cpu_seconds(kind) for kind in ("", "actor")
    )
    return Speed(rows / wall, 1e3 * cpu / rows), in_actors / cpu


def run(job: Job, files: list[Path], regions: RegionConfig, folder: Path) -> Run:
    listed = folder / f"{len(files)}.txt"
    listed.write_text("".join(f"{file}\n" for file in files))
    flags = ["--images", str(listed), "--regions.detector", "onnx"]
    flags += ["--regions.weights", regions.weights]
    if job == "caption_corpus":
        flags += ["--mrnn", str(folder / "mrnn"), "--captions.beam-size", str(BEAM_SIZE)]
        flags += ["--captions.max-words", str(WORDS)]
    return run_job(job, flags, folder / f"{job}-{len(files)}")


def main(config: BenchConfig) -> None:
    data = Path(os.environ.get("VSA_DATA", "."))
    images = data / "data" / "flickr8k" / "images"
    weights = data / "weights" / "picodet_s" / "picodet_s_416_coco.onnx"
    for needed in (images, weights):
        if not needed.exists():
            sys.exit(f"{needed} is missing: set VSA_DATA to the folder that holds it")
    files = sorted(images.glob("*.jpg"))[: config.images]
    torch.set_num_threads(THREADS)
    print(machine(), flush=True)
    regions = RegionConfig(detector="onnx", weights=str(weights))
    with tempfile.TemporaryDirectory() as folder:
        for job in config.jobs:
            loop = Loop(regions, None)
            if job == "caption_corpus":
                loop.captioner = make_captioner(Path(folder) / "mrnn", loop.describe.feature_dim)
            compare(job, files, config, loop, Path(folder))


if __name__ == "__main__":
    main(tyro.cli(BenchConfig, description=__doc__))
