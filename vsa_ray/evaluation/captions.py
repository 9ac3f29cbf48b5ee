"""Captions of whole images, scored against human sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vsa_ray import batches, metrics
from vsa_ray.vocabulary import tokenise


def captioning(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table, train: Iterable[pa.Table]
) -> dict[str, Any] | None:
    """Caption scores and the nearest-neighbour baseline: `captions` of metrics.json; None if no
    image has both a caption and sentences.

    The baseline's caption is the first sentence of the training image with the closest whole-image
    feature; it is null without training images. Failed images have no caption and do not count.
    `seen_in_training` is the percentage of captions that repeat a training sentence word for word;
    it is null without training sentences.

    Args:
        regions: those of the images to measure on.
        sentences: those of these and of the training images.
        train: regions of the training images, in blocks.
    """
    references = _sentences_by_image(sentences)
    captions = captions.filter(captions["caption"].is_valid())
    columns = captions["image_id"].to_pylist(), captions["caption"].to_pylist()
    written = dict(zip(*columns, strict=True))
    good = regions.filter(pc.equal(regions["status"], "ok"))
    asked = good.filter(
        pc.and_(
            pc.is_in(good["image_id"], value_set=pa.array(references, pa.string())),
            pc.is_in(good["image_id"], value_set=pa.array(written, pa.string())),
        )
    )
    images = asked["image_id"].to_pylist()
    if not images:
        return None
    true = {image_id: references[image_id] for image_id in images}
    scores = metrics.score_captions({image_id: written[image_id] for image_id in images}, true)

    neighbours = _nearest_neighbours(asked, train, references)
    nearest = None
    if neighbours:
        nearest = asdict(metrics.score_captions(dict(zip(images, neighbours, strict=True)), true))
    return {
        "images": len(images),
        **asdict(scores),
        "seen_in_training": _seen([written[image_id] for image_id in images], sentences),
        "nearest_neighbour": nearest,
    }


def _seen(captions: list[str], sentences: pa.Table) -> float | None:
    """Percentage of the captions that are sentences of the train split."""
    train = sentences.filter(pc.equal(sentences["split"], "train"))["words"].to_pylist()
    if not train:
        return None
    learned = {" ".join(words) for words in train}
    repeated = sum(" ".join(tokenise(caption)) in learned for caption in captions)
    return 100.0 * repeated / len(captions)


def _nearest_neighbours(
    asked: pa.Table, train: Iterable[pa.Table], sentences: Mapping[str, list[str]]
) -> list[str]:
    """A caption for each image in `asked`; an empty list without training images."""
    seen, captions = [], []
    for block in train:
        known = pc.is_in(block["image_id"], value_set=pa.array(sentences, pa.string()))
        block = block.filter(pc.and_(known, pc.equal(block["status"], "ok")))
        if len(block):
            seen.append(batches.whole_image_features(block))
            captions += [sentences[image_id] for image_id in block["image_id"].to_pylist()]
    if not seen:
        return []
    return metrics.nearest_neighbour_captions(
        batches.whole_image_features(asked), np.concatenate(seen), captions
    )


def _sentences_by_image(sentences: pa.Table) -> dict[str, list[str]]:
    by_image: dict[str, list[str]] = {}
    columns = sentences["image_id"].to_pylist(), sentences["text"].to_pylist()
    for image_id, text in zip(*columns, strict=True):
        by_image.setdefault(image_id, []).append(text)
    return by_image
