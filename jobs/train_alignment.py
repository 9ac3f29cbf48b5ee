"""Train the model that aligns words with regions, on images and their sentences.

    python -m jobs.train_alignment --regions RUN/regions --sentences RUN/sentences \\
        --out RUN/alignment --config jobs/configs/flickr8k.yaml

Keeps the epoch with the best dev retrieval. Run the same command with --resume to resume a
killed training.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pyarrow as pa

from jobs.launch import launch, require_described, require_split, require_table
from jobs.settings import recipe
from vsa_ray import batches, datasets, schema, storage, texts, tracking
from vsa_ray.alignment import AlignmentConfig, LabelWords, label_words
from vsa_ray.config import ConfigError
from vsa_ray.outputs import Output, origin
from vsa_ray.tracking import Run
from vsa_ray.training import runs
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.loop import ALONE, TrainContext, train
from vsa_ray.training.moments import Moments
from vsa_ray.training.tasks import Metrics
from vsa_ray.vocabulary import Vocabulary, VocabularyConfig

logger = logging.getLogger("jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    regions: str
    """The regions table, made by jobs.detect_regions."""

    sentences: str
    """The sentences table, made by jobs.read_corpus; it needs train and dev splits."""

    out: str
    """Where the model goes: a folder, or s3://bucket/prefix."""

    resume: bool = False
    """Resume a training that has a checkpoint in --out. Without this flag the job refuses, so that
    no training is resumed by mistake."""

    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        require_table(self.regions, "--regions")
        require_table(self.sentences, "--sentences")
        require_split(self.sentences, "train", "--sentences")
        require_split(self.sentences, "dev", "--sentences")


def main(
    config: JobConfig,
    parent: Run | None = None,
    *,
    context: TrainContext = ALONE,
) -> Metrics:
    inputs = {"regions": config.regions, "sentences": config.sentences}
    settings = {"alignment": config.alignment, "training": config.training}
    made_from = origin("train_alignment", inputs, vocabulary=config.vocabulary, **settings)
    output = Output(uri=config.out, made_from=made_from)
    if done := output.committed():
        logger.info("%s is already trained", config.out)
        runs.tidy(config.out)  # in case it was killed before it could
        return dict(done["best"])
    task, learned = prepare(config)
    # Only now: after an error above, the user may correct the settings and use the same --out.
    runs.begin(output, config.training, resume=config.resume)
    images = datasets.training_images(
        config.regions, learned, extra_columns=_extra_columns(config.alignment)
    )
    words = task.vocabulary
    logger.info("training the alignment: %d words, %d sentences", len(words), words.sentences)
    with tracking.run("train_alignment", made_from, parent=parent) as run:
        run.tags({"checkpoint": storage.absolute(config.out)})
        return train(task, images, config.training, output, run, context=context)


def prepare(config: JobConfig) -> tuple[AlignmentTask, pa.Table]:
    """What is learned, and the TEXTS that it is learned from. Needs no Ray.

    Raises:
        UserError: the tables, or the settings with them, cannot be learned from.
    """
    sentences = storage.read_table(config.sentences, schema.SENTENCES, split="train")
    vocabulary = Vocabulary.of(sentences, config.vocabulary)
    learned = texts.group_by_image(texts.known(texts.of_sentences(sentences), vocabulary))
    dev = storage.read_table(config.sentences, schema.SENTENCES, split="dev")
    require_described(config.regions, "train", learned)
    require_described(config.regions, "dev", texts.group_by_image(texts.of_sentences(dev)))
    task = AlignmentTask(
        config=config.alignment,
        vocabulary=vocabulary,
        moments=Moments.of(config.regions, with_detections=config.alignment.detections),
        regions=storage.absolute(config.regions),
        sentences=storage.absolute(config.sentences),
        labels=_labels(config, sentences, vocabulary) if config.alignment.distillation else None,
    )
    return task, learned


def _extra_columns(config: AlignmentConfig) -> tuple[str, ...]:
    """Columns to read in addition to the features."""
    boxes = batches.DETECTIONS if config.detections or config.distillation else ()
    return (*boxes, "labels") if config.distillation else boxes


def _labels(config: JobConfig, sentences: pa.Table, vocabulary: Vocabulary) -> LabelWords:
    columns = ["image_id", "labels", "scores"]
    blocks = storage.read_blocks(config.regions, schema.REGIONS, columns=columns, split="train")
    found = label_words(blocks, sentences, vocabulary)
    if not any(found.classes):  # only "", which stands for no class
        raise ConfigError(
            f"--alignment.distillation {config.alignment.distillation} learns from the detector's "
            f"classes, but --regions {config.regions} has none; make it with --regions.detector "
            "onnx or torchvision, or use --alignment.distillation 0"
        )
    return found


if __name__ == "__main__":
    launch(main, JobConfig, __doc__, recipe=recipe("alignment_training"))
