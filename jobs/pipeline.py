"""The whole chain: a corpus in; regions, alignment, snippets, captions, metrics and a gallery out.

    python -m jobs.pipeline --config jobs/configs/demo.yaml --corpus runs/scenes --out runs/demo

Stages that are done are not done again, so a pipeline that was stopped is started with the same
command. What it leaves below OUT:

    images/ sentences/ phrases/   the corpus as tables
    regions/                      the whole image and up to 19 boxes of every image, with features
    alignment/                    the model that aligns words with regions
    snippets/                     every sentence, cut into runs of words with their boxes
    mrnn/                         the model that writes
    captions/                     a sentence for every image and every box
    metrics.json, gallery/        what it is all worth, and a page to look at
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

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
from vsa_ray import storage, tracking
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.captions import CaptionConfig
from vsa_ray.corpora import ReaderConfig
from vsa_ray.images import ImageConfig
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.regions import RegionConfig
from vsa_ray.snippets import SnippetConfig
from vsa_ray.tracking import Run
from vsa_ray.training.config import TrainConfig
from vsa_ray.vocabulary import VocabularyConfig

logger = logging.getLogger("jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    corpus: str
    """Where the corpus is: a folder, or s3://bucket/prefix."""

    out: str
    """Where everything goes: a folder, or s3://bucket/prefix."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)
    loading: ImageConfig = field(default_factory=ImageConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    alignment_training: TrainConfig = field(default_factory=TrainConfig)
    snippets: SnippetConfig = field(default_factory=SnippetConfig)
    learn_from: Literal["both", "images", "snippets"] = "both"
    """What the captioner learns from: whole images, boxes with snippets, or both."""

    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    captioner_training: TrainConfig = field(default_factory=TrainConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    gallery_images: int = 200
    """Test pictures in the gallery."""

    def check(self) -> None:
        read_corpus.JobConfig(corpus=self.corpus, out=self.out).check()
        self.regions.check()


def main(config: JobConfig) -> None:
    started = time.monotonic()
    with tracking.run("pipeline", asdict(config)) as run:
        for name, stage in _stages(config, run).items():
            logger.info("== %s", name)
            begun = time.monotonic()
            stage()
            seconds = time.monotonic() - begun
            run.metrics({f"seconds/{name}": seconds})
            logger.info("%s took %.0f s", name, seconds)
    minutes = (time.monotonic() - started) / 60
    logger.info("done in %.1f minutes", minutes)
    logger.info("gallery: %s", storage.join(storage.absolute(config.out), "gallery", "index.html"))
    logger.info("runs:    mlflow ui --backend-store-uri %s", tracking.store())


def _stages(config: JobConfig, run: Run) -> dict[str, Callable[[], object]]:
    """The chain, in order. Each stage's settings are this job's, its paths are below `out`."""

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
        "read_corpus": lambda: read_corpus.main(read),
        "detect_regions": lambda: detect_regions.main(detect, run),
        "train_alignment": lambda: train_alignment.main(align, run),
        "extract_snippets": lambda: extract_snippets.main(extract, run),
        "train_mrnn": lambda: train_mrnn.main(learn, run),
        "caption_corpus": lambda: caption_corpus.main(write, run),
        "evaluate": lambda: evaluate.main(measure, run),
    }


if __name__ == "__main__":
    launch(main, JobConfig, __doc__)
