"""Read a corpus as tables."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

import pyarrow as pa

from vsa_ray import schema
from vsa_ray.corpora import entities
from vsa_ray.corpora.layouts import Format, Layout
from vsa_ray.corpora.readers import (
    Contents,
    read_coco,
    read_csv,
    read_flickr,
    read_folder,
    read_karpathy,
)
from vsa_ray.errors import UserError
from vsa_ray.vocabulary import tokenise

logger = logging.getLogger(__name__)

READERS = {
    "flickr": read_flickr,
    "coco": read_coco,
    "karpathy": read_karpathy,
    "csv": read_csv,
    "folder": read_folder,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderConfig:
    format: Format = "auto"
    """Layout of the corpus; "auto" recognises it by file names. "csv" is a captions*.csv (or .txt)
    with columns image, caption and optionally split; "folder" is images without sentences."""

    phrases: str = ""
    """Optional: human-drawn boxes for phrases of the sentences (Flickr30k Entities), to measure
    grounding: a directory with Annotations/ and Sentences/, or annotations.tar.xz. If empty,
    grounding is not measured."""

    max_train: int = 0
    """Read at most this many images of the train split, drawn at random; 0 reads all."""

    max_dev: int = 0
    """The same for dev."""

    max_test: int = 0
    """The same for test."""

    dev_share: float = 0.0
    """For a corpus without a dev split: the fraction of its train images to move to dev, drawn at
    random; 0.1 is a tenth. If no image is in any split, all count as train first."""

    test_share: float = 0.0
    """The same for a corpus without a test split."""

    seed: int = 0
    """Seed of the random draws above. A higher limit keeps the same images and adds others."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ValueError(
                f"ReaderConfig.format must be one of {', '.join(get_args(Format))}, "
                f"got {self.format!r}"
            )
        for name in ("max_train", "max_dev", "max_test"):
            if getattr(self, name) < 0:
                raise ValueError(f"ReaderConfig.{name} must be >= 0, got {getattr(self, name)}")
        for name in ("dev_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"ReaderConfig.{name} must be in [0, 1), got {getattr(self, name)}"
                )
        if self.dev_share + self.test_share >= 1:
            raise ValueError(
                "ReaderConfig.dev_share and test_share must leave images to train on, got "
                f"{self.dev_share} and {self.test_share}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Tables ordered by image_id, then by the number of the sentence within its image."""

    images: pa.Table
    """`schema.IMAGES`, including images without sentences."""

    sentences: pa.Table
    """`schema.SENTENCES` of the images in `images`."""

    phrases: pa.Table
    """`schema.PHRASES`. Its sentence_id is that of the same words in `sentences`; the few annotated
    sentences that are not in the corpus get an id of their own."""

    oddities: dict[str, int]
    """Kinds of irregularities in the corpus's files, and how often each occurs."""


def read_corpus(uri: str, config: ReaderConfig) -> Corpus:
    """Read a corpus from a directory that holds its annotations and images at any depth.

    image_id is the image's file name, or its path in a plain folder and where a CSV has images of
    the same name in several folders; sentence_id is `<image_id>#<number>`. Limits are applied last:
    irregular sentences and splits are counted for all images, irregular phrases only for those
    within the limits.

    Raises:
        UserError: there is no corpus of that format, or none of its images.
    """
    layout = Layout(uri)
    layout_format = layout.format() if config.format == "auto" else config.format
    contents = READERS[layout_format](layout)
    if not contents.images:
        named = min((said.image_id for said in contents.sentences), default="")
        raise UserError(
            f"{uri}: none of the images that its files name was found below it (the first is "
            f"{named!r}); put the image folder there"
        )
    _share_out(contents, config)
    kept = _within_limits(contents, config)
    sentences = _sentences(contents, kept)
    phrases, odd = schema.PHRASES.empty_table(), Counter[str]()
    if config.phrases:
        phrases, odd = entities.read_phrases(config.phrases, kept, sentences)
    if layout_format != "folder":
        odd.update(_unused(contents))
    odd.update(contents.oddities)
    corpus = Corpus(
        images=_images(contents, kept),
        sentences=sentences,
        phrases=phrases,
        oddities={kind: n for kind, n in sorted(odd.items()) if n},
    )
    logger.info(
        "%s: %s layout, %d images, %d sentences, %d of them with phrases; irregularities: %s",
        *(uri, layout_format, corpus.images.num_rows, sentences.num_rows, phrases.num_rows),
        corpus.oddities or "none",
    )
    return corpus


def _unused(contents: Contents) -> Counter[str]:
    """Count images of a captioned corpus that cannot be used for training or evaluation."""
    said = {said.image_id for said in contents.sentences}
    return Counter(
        {
            "image without sentences": len(contents.images.keys() - said),
            "image in no split": sum(not contents.splits.get(i) for i in contents.images),
        }
    )


def _share_out(contents: Contents, config: ReaderConfig) -> None:
    """Draw missing dev and test splits from the train split."""
    shares = {"dev": config.dev_share, "test": config.test_share}
    if any(shares.values()) and not any(contents.splits.get(i) for i in contents.images):
        contents.splits = dict.fromkeys(contents.images, "train")
    splits = {image_id: contents.splits.get(image_id, "") for image_id in contents.images}
    train = [image_id for image_id, split in splits.items() if split == "train"]
    images = len(train)
    for split, share in shares.items():
        if share and split not in splits.values():
            drawn = set(_drawn(train, max(1, round(share * images)), config.seed))
            contents.splits |= dict.fromkeys(drawn, split)
            train = [image_id for image_id in train if image_id not in drawn]


def _within_limits(contents: Contents, config: ReaderConfig) -> dict[str, str]:
    """image_id -> split of the images to keep, in order."""
    by_split: dict[str, list[str]] = {"train": [], "dev": [], "test": [], "": []}
    for image_id in contents.images:
        by_split[contents.splits.get(image_id, "")].append(image_id)
    limits = {"train": config.max_train, "dev": config.max_dev, "test": config.max_test}
    return dict(
        sorted(
            (image_id, split)
            for split, image_ids in by_split.items()
            for image_id in _drawn(image_ids, limits.get(split, 0), config.seed)
        )
    )


def _drawn(image_ids: list[str], limit: int, seed: int) -> Collection[str]:
    """Draw `limit` images. Each image has its own lot, so a higher limit only adds images."""
    if limit == 0:
        return image_ids
    lots = {i: hashlib.sha256(f"{seed} {i}".encode()).digest() for i in image_ids}
    return sorted(image_ids, key=lots.__getitem__)[:limit]


def _images(contents: Contents, kept: dict[str, str]) -> pa.Table:
    rows = [
        {"image_id": image_id, "uri": contents.images[image_id], "split": split}
        for image_id, split in kept.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema.IMAGES)


def _sentences(contents: Contents, kept: dict[str, str]) -> pa.Table:
    rows = []
    for image_id, number, text in sorted(contents.sentences):
        words = tokenise(text)
        if image_id not in contents.images:
            contents.oddities["sentence without an image"] += 1
        elif not words:
            contents.oddities["sentence without words"] += 1
        elif image_id in kept:
            rows.append(
                {
                    "sentence_id": f"{image_id}#{number}",
                    "image_id": image_id,
                    "split": kept[image_id],
                    "text": text.strip(),
                    "words": words,
                }
            )
    return pa.Table.from_pylist(rows, schema=schema.SENTENCES)
