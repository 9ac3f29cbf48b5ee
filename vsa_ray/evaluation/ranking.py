"""Retrieval: images and sentences rank each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from vsa_ray import batches, metrics
from vsa_ray.alignment import AlignmentModel, image_sentence_scores
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner
from vsa_ray.errors import UserError

SENTENCES_AT_ONCE = 1_000

REGIONS_AT_ONCE = 10_000
"""Regions encoded at once: some hundred images."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images of a split, their sentences as ids, and which belong together."""

    features: Ragged
    """(P, F) features of all regions, and the number of regions per image."""

    words: Ragged
    """(W,) ids of all words, and the number of words per sentence."""

    image_of_C: npt.NDArray[np.int64]
    """The image of each sentence."""


def pairs(regions: pa.Table, sentences: pa.Table, aligner: Aligner) -> Pairs:
    """The usable images of `regions` that have sentences, and those sentences, as model inputs.

    Raises:
        UserError: no image has a sentence.
    """
    has_sentences = pc.is_in(regions["image_id"], value_set=sentences["image_id"].unique())
    regions = regions.filter(pc.and_(pc.equal(regions["status"], "ok"), has_sentences))
    image_of = pc.index_in(sentences["image_id"], value_set=regions["image_id"])
    known = pc.is_valid(image_of)
    if not len(regions):
        raise UserError(
            "no sentence belongs to a usable image of the regions table: are both from the same "
            "corpus, or have all images failed (column `error`)?"
        )
    words = [aligner.vocabulary.encode(s) for s in sentences["words"].filter(known).to_pylist()]
    features = batches.features(regions, with_detections=aligner.model.config.detections)
    return Pairs(features, Ragged.of(words), image_of.filter(known).to_numpy().astype(int))


def retrieval_scores(model: AlignmentModel, data: Pairs) -> npt.NDArray[np.float32]:
    """Eq. 8 for every image and every sentence -> (images, sentences)."""
    return text_scores(model, data.features, data.words)


@torch.inference_mode()
def text_scores(model: AlignmentModel, features: Ragged, words: Ragged) -> npt.NDArray[np.float32]:
    """Eq. 8 for every image and every text -> (images, texts).

    Args:
        features: as `Pairs.features`.
        words: ids of all words, as `Pairs.words`.
    """
    device = model.mean_F.device
    features = batches.seen(features, model.config.regions)
    # Keep the features, which are several times as large, off the device.
    regions_PD = torch.cat(
        [model.encode_regions(rows.to(device)) for rows in features.rows.split(REGIONS_AT_ONCE)]
    )
    num_regions_B = features.lengths.to(device)
    blocks = []
    for some in _blocks(words):
        ids_W, lengths_C = some.rows.to(device), some.lengths.to(device)
        blocks.append(
            image_sentence_scores(
                regions_PD,
                num_regions_B,
                model.encode_words(ids_W, lengths_C),
                lengths_C,
                score=model.config.score,
            ).cpu()
        )
    scores_BC: npt.NDArray[np.float32] = torch.cat(blocks, dim=1).numpy()
    return scores_BC


def _blocks(words: Ragged) -> Sequence[Ragged]:
    lengths = words.lengths.split(SENTENCES_AT_ONCE)
    rows = words.rows.split([int(part.sum()) for part in lengths])
    return [Ragged(*block) for block in zip(rows, lengths, strict=True)]


def retrieval(model: AlignmentModel, data: Pairs) -> dict[str, Any]:
    """Both directions, and chance: the part `retrieval` of metrics.json."""
    return retrieval_by(retrieval_scores(model, data), data)


def retrieval_by(scores_BC: npt.NDArray[np.float32], data: Pairs) -> dict[str, Any]:
    """`retrieval` from existing scores, such as the sum of several models' scores."""
    images, image_of_C = len(scores_BC), data.image_of_C
    return {
        "images": images,
        "sentences": len(image_of_C),
        "image_annotation": asdict(metrics.image_annotation(scores_BC, image_of_C)),
        "image_search": asdict(metrics.image_search(scores_BC, image_of_C)),
        "chance": {
            "image_annotation": asdict(metrics.chance_annotation(image_of_C, images)),
            "image_search": asdict(metrics.chance_search(image_of_C, images)),
        },
    }
