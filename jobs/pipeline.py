"""The whole pipeline, from a corpus to regions, alignment, snippets, captions, metrics and gallery.

    python -m jobs.pipeline --config jobs/configs/demo.yaml --corpus runs/scenes --out runs/demo

Finished stages are skipped: run the same command again to resume a pipeline that was stopped. The
corpus needs sentences in a train, a dev and a test split; if it has no splits, see
--reader.dev-share and --reader.test-share. Outputs below OUT:

    images/ sentences/ phrases/   the corpus as tables
    regions/                      the whole image and up to 19 boxes of every image, with features
    alignment/                    the model that aligns words with regions
    snippets/                     every sentence, cut into runs of words with their boxes
    mrnn/                         the captioner
    captions/                     a caption for every image of every split, and for every box
    metrics.json, gallery/        scores, and a page to browse the results
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jobs import (
    caption_corpus,
    detect_regions,
    evaluate,
    extract_snippets,
    read_corpus,
    train_alignment,
    train_mrnn,
)
from jobs.launch import launch
from jobs.settings import Settings
from vsa_ray import storage, tracking
from vsa_ray.config import ConfigError
from vsa_ray.tracking import Run

logger = logging.getLogger("jobs")

OUTPUTS = {
    "read_corpus": "phrases",  # the last of three
    "detect_regions": "regions",
    "train_alignment": "alignment",
    "extract_snippets": "snippets",
    "train_mrnn": "mrnn",
    "caption_corpus": "captions",
}
"""The output below `out` that shows that a stage is done. Evaluation is always repeated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig(Settings):
    corpus: str
    """Folder or s3://bucket/prefix that holds the images and sentences, at any depth."""

    out: str
    """Where all outputs go: a folder, or s3://bucket/prefix."""

    learn_from: Literal["both", "images", "snippets"] = "both"
    """What the captioner is trained on: "images" are whole images with their sentences, "snippets"
    are boxes with their snippets of sentences, "both" trains one model on both."""

    gallery_images: int = 200
    """Maximum number of test pictures in the gallery; 0 makes no gallery."""

    def check(self) -> None:
        if self.gallery_images < 0:
            raise ConfigError(f"--gallery-images must be >= 0, got {self.gallery_images}")
        read_corpus.JobConfig(corpus=self.corpus, out=self.out).check()
        self.regions.check()
        if self.alignment.distillation and not self.regions.has_classes:
            raise ConfigError(
                f"--alignment.distillation {self.alignment.distillation} learns from the classes "
                f"of the detector, but --regions.detector {self.regions.detector} has none; use "
                "--regions.detector onnx or torchvision with --regions.weights, or "
                "--alignment.distillation 0"
            )


def main(config: JobConfig) -> None:
    seconds: dict[str, float] = {}
    with tracking.run("pipeline", asdict(config)) as run:
        stages = _stages(config, run)
        for number, (name, stage) in enumerate(stages.items(), start=1):
            logger.info("%d/%d  %s", number, len(stages), name)
            before = _finished(config.out, name)
            begun = time.monotonic()
            stage()
            seconds[name] = time.monotonic() - begun
            run.metrics({f"seconds/{name}": seconds[name]})
            skipped = before is not None and before == _finished(config.out, name)
            how = "was already done" if skipped else f"took {seconds[name]:.0f} s"
            logger.info("%d/%d  %s %s", number, len(stages), name, how)
    logger.info("done in %.1f minutes: %s", sum(seconds.values()) / 60, _shares(seconds))
    out = storage.absolute(config.out)
    logger.info("metrics: %s", storage.join(out, "metrics.json"))
    if config.gallery_images:
        logger.info("gallery: %s", storage.join(out, "gallery", "index.html"))
    store = tracking.store()
    ui = "mlflow ui --backend-store-uri " if store.startswith(tracking.SQLITE) else ""
    logger.info("runs:    %s%s", ui, tracking.masked(store))


def _finished(out: str, stage: str) -> dict[str, Any] | None:
    """What a stage wrote about its output when it committed it; None if it has not."""
    output = OUTPUTS.get(stage)
    return storage.committed(storage.join(out, output)) if output else None


def _shares(seconds: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {100 * s / sum(seconds.values()):.0f}%" for name, s in seconds.items()
    )


def _stages(config: JobConfig, run: Run) -> dict[str, Callable[[], object]]:
    """The stages in order, with this job's settings, and paths below `out`."""

    def at(name: str) -> str:
        return storage.join(config.out, name)

    read = read_corpus.JobConfig(corpus=config.corpus, out=config.out, reader=config.reader)
    detect = detect_regions.JobConfig(
        images=at("images"), out=at("regions"), loading=config.loading, regions=config.regions
    )
    align = train_alignment.JobConfig(
        regions=at("regions"),
        sentences=at("sentences"),
        out=at("alignment"),
        resume=True,
        vocabulary=config.vocabulary,
        alignment=config.alignment,
        training=config.alignment_training,
    )
    extract = extract_snippets.JobConfig(
        regions=at("regions"),
        sentences=at("sentences"),
        alignment=at("alignment"),
        out=at("snippets"),
        snippets=config.snippets,
    )
    learn = train_mrnn.JobConfig(
        regions=at("regions"),
        sentences=at("sentences"),
        snippets=at("snippets"),
        out=at("mrnn"),
        resume=True,
        learn_from=config.learn_from,
        vocabulary=config.vocabulary,
        captioner=config.captioner,
        training=config.captioner_training,
    )
    write = caption_corpus.JobConfig(
        regions_table=at("regions"), mrnn=at("mrnn"), out=at("captions"), captions=config.captions
    )
    measure = evaluate.JobConfig(
        run=config.out, snippets=config.snippets, gallery_images=config.gallery_images
    )
    return {
        "read_corpus": lambda: read_corpus.main(read, splits=("train", "dev", "test")),
        "detect_regions": lambda: detect_regions.main(detect, run),
        "train_alignment": lambda: train_alignment.main(align, run),
        "extract_snippets": lambda: extract_snippets.main(extract, run),
        "train_mrnn": lambda: train_mrnn.main(learn, run),
        "caption_corpus": lambda: caption_corpus.main(write, run),
        "evaluate": lambda: evaluate.main(measure, run),
    }


if __name__ == "__main__":
    launch(main, JobConfig, __doc__)
