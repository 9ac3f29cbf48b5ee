"""Train the captioner on whole images and their sentences, on boxes and their snippets, or on both.

    python -m jobs.train_mrnn --regions RUN/regions --sentences RUN/sentences \\
        --snippets RUN/snippets --out RUN/mrnn --config jobs/configs/flickr8k.yaml

A model trained on both can describe whole images as well as regions. Run the same command with
--resume to resume a killed training.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from jobs.launch import launch, require_described, require_split, require_table
from jobs.settings import recipe
from vsa_ray import datasets, schema, storage, texts, tracking
from vsa_ray.config import ConfigError
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.outputs import Output, origin
from vsa_ray.regions import learning_from
from vsa_ray.texts import Text
from vsa_ray.tracking import Run
from vsa_ray.training import runs
from vsa_ray.training.caption_task import CaptionTask
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

    snippets: str = ""
    """The snippets table, made by jobs.extract_snippets. Not needed with --learn-from images."""

    out: str
    """Where the model goes: a folder, or s3://bucket/prefix."""

    resume: bool = False
    """Resume a training that has a checkpoint in --out. Without this flag the job refuses, so that
    no training is resumed by mistake."""

    learn_from: Literal["both", "images", "snippets"] = "both"
    """What the model is trained on: "images" are whole images with their sentences, "snippets" are
    boxes with their snippets of sentences, "both" trains one model on both."""

    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        require_table(self.regions, "--regions")
        require_table(self.sentences, "--sentences")
        require_split(self.sentences, "train", "--sentences")
        require_split(self.sentences, "dev", "--sentences")
        if self.learn_from == "images":
            return
        if not self.snippets:
            raise ConfigError(f"--learn-from {self.learn_from} needs --snippets")
        require_table(self.snippets, "--snippets")


def main(config: JobConfig, parent: Run | None = None, *, context: TrainContext = ALONE) -> Metrics:
    inputs = {name: getattr(config, name) for name in ("regions", "sentences", "snippets")}
    made_from = origin(
        "train_mrnn",
        inputs,
        vocabulary=config.vocabulary,
        captioner=config.captioner,
        training=config.training,
    )
    made_from["learn_from"] = config.learn_from
    made_from |= learning_from(config.regions)
    output = Output(uri=config.out, made_from=made_from)
    if done := output.committed():
        logger.info("%s is already trained", config.out)
        runs.tidy(config.out)  # in case it was killed before it could
        return dict(done["best"])
    sentences = storage.read_table(config.sentences, schema.SENTENCES, split="train")
    vocabulary = Vocabulary.of(sentences, config.vocabulary)
    learned, dev_texts = (
        texts.group_by_image(texts.known(_texts(config, split), vocabulary))
        for split in ("train", "dev")
    )
    require_described(config.regions, "train", learned)
    require_described(config.regions, "dev", dev_texts)
    task = CaptionTask(
        config=config.captioner,
        vocabulary=vocabulary,
        moments=Moments.of(config.regions),
        regions=storage.absolute(config.regions),
        has_sentences=config.learn_from != "snippets",
        dev_texts=dev_texts,
    )
    # Only now: after an error above, the user may correct the settings and use the same --out.
    runs.begin(output, config.training, resume=config.resume)
    images = datasets.training_images(config.regions, learned, described=True)
    logger.info("training the captioner: %d words, %d images", len(vocabulary), len(learned))
    with tracking.run("train_mrnn", made_from, parent=parent) as run:
        run.tags({"checkpoint": storage.absolute(config.out)})
        return train(task, images, config.training, output, run, context=context)


def _texts(config: JobConfig, split: str) -> Iterator[Text]:
    if config.learn_from != "snippets":
        yield from texts.of_sentences(
            storage.read_table(config.sentences, schema.SENTENCES, split=split)
        )
    if config.learn_from != "images":
        yield from texts.of_snippets(
            storage.read_table(config.snippets, schema.SNIPPETS, split=split)
        )


if __name__ == "__main__":
    launch(main, JobConfig, __doc__, recipe=recipe("captioner_training"))
