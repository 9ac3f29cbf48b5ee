"""The images of the gallery, made from tables; report.py renders them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vsa_ray import batches
from vsa_ray.checkpoints import Aligner
from vsa_ray.images import PILLOW_LIMIT, ImageConfig, ImageError, load
from vsa_ray.report import GalleryImage, GalleryRegion, GalleryWord, thumbnail
from vsa_ray.snippets import Snippet, SnippetConfig, align

LIMITS = ImageConfig(max_pixels=PILLOW_LIMIT, max_bytes=2**31)
"""No limits of our own: these images were already loaded within the limits of their run."""


def gallery_images(
    regions: pa.Table,
    captions: pa.Table,
    sentences: pa.Table,
    aligner: Aligner,
    config: SnippetConfig,
) -> Iterator[GalleryImage]:
    """A card for each image of `regions`, made lazily.

    The card of an image without a caption says why.

    Args:
        regions: the images to show.
        captions: those of these images, and possibly of others.
        sentences: those of these images, and possibly of others; their words are aligned here.
    """
    captions = captions.filter(pc.is_in(captions["image_id"], value_set=regions["image_id"]))
    captions_of = {row["image_id"]: row for row in captions.to_pylist()}
    words_of: dict[str, list[list[str]]] = {}
    columns = sentences["image_id"].to_pylist(), sentences["words"].to_pylist()
    for image_id, words in zip(*columns, strict=True):
        words_of.setdefault(image_id, []).append(words)
    for i in range(len(regions)):
        image = regions.slice(i, 1)
        (row,) = image.drop(["features"]).to_pylist()
        sentences_of = words_of.get(row["image_id"], [])
        if row["status"] != "ok":
            yield _failed(row, sentences_of, row["error"])
            continue
        caption = captions_of.get(row["image_id"])
        if caption is None or caption["caption"] is None:
            reason = caption["error"] if caption else "it is not in the captions table"
            yield _failed(row, sentences_of, f"no caption: {reason}")
            continue
        try:
            pixels = load(row["uri"], LIMITS)
        except ImageError as error:
            yield _failed(row, sentences_of, str(error))
            continue
        confidence_R = np.array(row["scores"], np.float32)
        seen = batches.features(image, with_detections=aligner.model.config.detections)
        snippets = align(aligner, config, seen.rows, confidence_R, sentences_of)
        yield GalleryImage(
            image_id=row["image_id"],
            width=row["width"],
            height=row["height"],
            jpeg=thumbnail(pixels),
            caption=caption["caption"],
            log_prob=caption["log_prob"],
            regions=_regions(row, caption),
            references=[
                _aligned(words, found) for words, found in zip(sentences_of, snippets, strict=True)
            ],
        )


def _regions(row: dict[str, Any], caption: dict[str, Any]) -> list[GalleryRegion]:
    said = [caption, *caption["regions"]]
    return [
        GalleryRegion(
            box=tuple(box),
            label=label,
            score=score,
            caption=own["caption"],
            log_prob=own["log_prob"],
        )
        for box, label, score, own in zip(
            row["boxes"], row["labels"], row["scores"], said, strict=True
        )
    ]


def _aligned(words: Sequence[str], snippets: Sequence[Snippet]) -> list[GalleryWord]:
    region_of: dict[int, int] = {}
    for snippet in snippets:
        region_of |= dict.fromkeys(range(snippet.first, snippet.stop), snippet.region)
    return [GalleryWord(text=word, region=region_of.get(i)) for i, word in enumerate(words)]


def _failed(row: dict[str, Any], sentences: Sequence[Sequence[str]], error: str) -> GalleryImage:
    return GalleryImage(
        image_id=row["image_id"],
        width=1,
        height=1,
        jpeg=b"",
        caption="",
        log_prob=0.0,
        regions=[],
        references=[[GalleryWord(text=word, region=None) for word in words] for words in sentences],
        error=error,
    )
