"""A training job on Ray, compared with a bare loop over the same batches.

    python -m bench.training           some 5 minutes; needs an idle machine

Both kinds of models, each on 3,000 images with 20 regions of width 1,280 and 5 sentences per image.
The bare loop has all images in memory and does nothing else: no Ray, checkpoints, dev metrics or
progress reports. It runs before and after the job, whose speed is the one it reports for the last
epoch; the goal is a ratio of 0.9. Time outside of epochs is start-up, mainly of workers, with Ray
already running, and committing the model.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from bench.machine import machine
from bench.train_step import VOCABULARY_SIZE, images_of, make_task
from jobs import launch, train_alignment, train_mrnn
from vsa_ray import machine as own_machine
from vsa_ray import schema, storage
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.training import order
from vsa_ray.training.caption_task import CaptionTask
from vsa_ray.training.config import TrainConfig, make_optimizer
from vsa_ray.training.moments import Moments
from vsa_ray.training.step import train_step
from vsa_ray.training.tasks import Task
from vsa_ray.training.worker import TaskLoss
from vsa_ray.vocabulary import Vocabulary, VocabularyConfig

IMAGES, DEV_IMAGES, EPOCHS = 3_000, 100, 2


def make_tables(folder: str) -> pa.Table:
    """Write tables of regions and sentences -> the training images, as training reads them."""
    words = tuple(f"word{i}" for i in range(VOCABULARY_SIZE - 1))
    images = images_of(Vocabulary(words, (5,) * len(words), 30_000), IMAGES + DEV_IMAGES)
    splits = ["train"] * IMAGES + ["dev"] * DEV_IMAGES
    counts = [len(own) for own in images["features"].to_pylist()]
    constant = {"uri": "", "width": 100, "height": 100, "status": "ok", "error": None}
    columns = {
        **{name: [value] * len(images) for name, value in constant.items()},
        "image_id": images["image_id"],
        "split": splits,
        "boxes": [[[0.0, 0.0, 50.0, 50.0]] * n for n in counts],
        "scores": [[0.5] * n for n in counts],
        "labels": [["thing"] * n for n in counts],
        "features": images["features"],
    }
    sentences = [
        {"sentence_id": f"{i}#{n}", "image_id": i, "split": s, "text": " ".join(w), "words": w}
        for i, s, texts in zip(
            columns["image_id"].to_pylist(), splits, images["texts"].to_pylist(), strict=True
        )
        for n, w in enumerate(texts)
    ]
    regions = pa.table({name: columns[name] for name in schema.REGIONS.names}, schema.REGIONS)
    tables = {"regions": regions, "sentences": pa.Table.from_pylist(sentences, schema.SENTENCES)}
    for name, table in tables.items():
        storage.write_table(storage.join(folder, name), table)
        storage.commit(storage.join(folder, name), {})
    texts = images["texts"].slice(0, IMAGES)
    whole = [[0] * len(own) for own in texts.to_pylist()]
    return images.slice(0, IMAGES).append_column(
        "text_regions", pa.array(whole, pa.list_(pa.int32()))
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """A model to train, by a job, which returns its metrics, and in a bare loop."""

    job: Callable[[str], dict[str, float]]
    task: Task
    training: TrainConfig


def kinds(folder: str) -> dict[str, Kind]:
    regions, sentences = (storage.join(folder, name) for name in ("regions", "sentences"))
    every = VocabularyConfig(min_count=1)
    aligning = TrainConfig(epochs=EPOCHS)
    writing = TrainConfig(epochs=EPOCHS, batch_size=20)
    words = Vocabulary.of(storage.read_table(sentences, schema.SENTENCES), every)
    captions = CaptionTask(
        config=CaptionerConfig(),
        vocabulary=words,
        moments=Moments.of(regions),
        regions="",
        has_sentences=True,
        dev_texts=pa.table({}),
    )
    align = train_alignment.JobConfig(
        regions=regions, sentences=sentences, out="", vocabulary=every, training=aligning
    )
    write = train_mrnn.JobConfig(
        regions=regions,
        sentences=sentences,
        out="",
        learn_from="images",
        vocabulary=every,
        training=writing,
    )
    return {
        "alignment": Kind(
            lambda out: train_alignment.main(replace(align, out=out)),
            make_task(AlignmentConfig()),
            aligning,
        ),
        "captioner": Kind(lambda out: train_mrnn.main(replace(write, out=out)), captions, writing),
    }


def bare_speed(kind: Kind, images: pa.Table) -> float:
    """Images per second of an epoch in a bare loop."""
    model = kind.task.build().train()
    loss_of, optimizer = TaskLoss(kind.task, model), make_optimizer(model, kind.training)
    blocks = order.Blocks([len(images)], lambda _: images)
    start = time.monotonic()
    for batch in order.global_batches(len(images), kind.training, 0):
        made = kind.task.batch(blocks.take(batch), epoch=0, seed=0)
        train_step(loss_of, optimizer, made, kind.training)
    return len(images) / (time.monotonic() - start)


def main() -> None:
    torch.set_num_threads(own_machine.cpus())
    print(machine())
    launch.start_ray()
    with tempfile.TemporaryDirectory() as folder:
        images = make_tables(folder)
        for name, kind in kinds(folder).items():
            before = bare_speed(kind, images)
            start = time.monotonic()
            found = kind.job(storage.join(folder, name))
            took, epoch = time.monotonic() - start, found["train/seconds"]
            after = bare_speed(kind, images)
            speed, bare = found["train/images_per_second"], (before + after) / 2
            print(
                f"  {name:10} {speed:6.1f} images a second, bare {before:.1f} and {after:.1f}: "
                f"{speed / bare:.2f}; {took:.0f} s in all, of which {EPOCHS * epoch:.0f} in epochs"
            )


if __name__ == "__main__":
    main()
