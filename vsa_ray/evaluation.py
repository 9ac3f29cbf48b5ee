"""Models against the sentences and boxes of people: what `metrics` needs, made from tables.

The same code scores the dev split after every epoch of training and the test split at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from vsa_ray import batches, metrics
from vsa_ray.alignment import AlignmentModel, image_sentence_scores
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner
from vsa_ray.errors import UserError
from vsa_ray.mrnn import MultimodalRNN, beam_search
from vsa_ray.vocabulary import Vocabulary

SENTENCES_AT_ONCE = 1_000

REGIONS_AT_ONCE = 10_000
"""Some hundred images, whose features are encoded at once."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images of a split, their sentences as ids, and which belong together."""

    features: Ragged
    """(P, F) features of all regions, and regions an image."""

    words: Ragged
    """(W,) ids of all words, and words a sentence."""

    image_of_C: npt.NDArray[np.int64]
    """The image of each sentence."""


def pairs(regions: pa.Table, sentences: pa.Table, vocabulary: Vocabulary) -> Pairs:
    """The good images of `regions` that have sentences, and those sentences.

    Raises:
        UserError: no image has a sentence.
    """
    has_sentences = pc.is_in(regions["image_id"], value_set=sentences["image_id"].unique())
    regions = regions.filter(pc.and_(pc.equal(regions["status"], "ok"), has_sentences))
    image_of = pc.index_in(sentences["image_id"], value_set=regions["image_id"])
    known = pc.is_valid(image_of)
    if not len(regions):
        raise UserError("no sentence belongs to an image of the regions table; same corpus?")
    words = [vocabulary.encode(s) for s in sentences["words"].filter(known).to_pylist()]
    return Pairs(
        batches.features(regions), Ragged.of(words), image_of.filter(known).to_numpy().astype(int)
    )


@torch.inference_mode()
def retrieval_scores(model: AlignmentModel, data: Pairs) -> npt.NDArray[np.float32]:
    """Eq. 8 for every image and every sentence -> (images, sentences)."""
    device = model.mean_F.device
    # The features, several times as large, stay where they are.
    regions_PD = torch.cat(
        [
            model.encode_regions(rows.to(device))
            for rows in data.features.rows.split(REGIONS_AT_ONCE)
        ]
    )
    num_regions_B = data.features.lengths.to(device)
    blocks = []
    for words in _blocks(data.words):
        ids_W, lengths_C = words.rows.to(device), words.lengths.to(device)
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
    """Both directions, beside chance: the part `retrieval` of metrics.json."""
    scores_BC = retrieval_scores(model, data)
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


def grounding(aligner: Aligner, regions: pa.Table, phrases: pa.Table) -> dict[str, Any]:
    """People's phrases to boxes, beside baselines: the part `grounding` of metrics.json.

    A phrase goes to the detection with the best sum of v_i . s_t over its words. The whole image is
    a candidate only where nothing was detected: it is the right box for few phrases.
    """
    chosen: dict[tuple[str, int], int] = {}
    good = regions.filter(pc.equal(regions["status"], "ok"))
    features = dict(zip(good["image_id"].to_pylist(), batches.features(good).split(), strict=True))
    for image_id, rows in groupby(phrases.sort_by("image_id").to_pylist(), itemgetter("image_id")):
        sentences = list(rows)
        if image_id not in features:
            continue
        detections = features[image_id][1:] if len(features[image_id]) > 1 else features[image_id]
        first = len(features[image_id]) - len(detections)
        words = Ragged.of([aligner.vocabulary.encode(row["words"]) for row in sentences])
        scores = word_scores(aligner.model, detections, words)
        for row, scores_TR in zip(sentences, scores, strict=True):
            known = aligner.vocabulary.known(row["words"])
            for i, phrase in enumerate(row["phrases"]):
                at = metrics.choose_by_score(scores_TR, known, phrase["first"], phrase["stop"])
                if at is not None:
                    chosen[row["sentence_id"], i] = first + at
    return asdict(metrics.score_grounding(phrases, regions, chosen))


def captioning(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table, train: Iterable[pa.Table]
) -> dict[str, Any]:
    """Captions against sentences, beside the nearest neighbour's: `captions` of metrics.json.

    The neighbour is the training image with the closest whole-image feature; its first sentence is
    the caption; null without training images. A failed image has no caption, and does not count.

    Args:
        regions: of the images to measure on.
        sentences: of these and of the training images.
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
    true = {image_id: references[image_id] for image_id in images}
    scores = metrics.score_captions({image_id: written[image_id] for image_id in images}, true)

    neighbours = _nearest_neighbours(asked, train, references)
    nearest = None
    if neighbours:
        nearest = asdict(metrics.score_captions(dict(zip(images, neighbours, strict=True)), true))
    return {"images": len(images), **asdict(scores), "nearest_neighbour": nearest}


def _nearest_neighbours(
    asked: pa.Table, train: Iterable[pa.Table], sentences: Mapping[str, list[str]]
) -> list[str]:
    """A caption for each image that is asked for; none at all without training images."""
    seen, told = [], []
    for block in train:
        known = pc.is_in(block["image_id"], value_set=pa.array(sentences, pa.string()))
        block = block.filter(pc.and_(known, pc.equal(block["status"], "ok")))
        if len(block):
            seen.append(batches.whole_image_features(block))
            told += [sentences[image_id] for image_id in block["image_id"].to_pylist()]
    if not seen:
        return []
    return metrics.nearest_neighbour_captions(
        batches.whole_image_features(asked), np.concatenate(seen), told
    )


def _sentences_by_image(sentences: pa.Table) -> dict[str, list[str]]:
    by_image: dict[str, list[str]] = {}
    columns = sentences["image_id"].to_pylist(), sentences["text"].to_pylist()
    for image_id, text in zip(*columns, strict=True):
        by_image.setdefault(image_id, []).append(text)
    return by_image


@torch.inference_mode()
def word_scores(
    model: AlignmentModel, features_RF: Tensor, sentences: Ragged
) -> list[npt.NDArray[np.float32]]:
    """v_i . s_t of one image and some sentences -> for each sentence (T, R)."""
    device = model.mean_F.device
    regions_RD = model.encode_regions(features_RF.to(device))
    words_WD = model.encode_words(sentences.rows.to(device), sentences.lengths.to(device))
    scores_WR = (words_WD @ regions_RD.T).float().cpu()
    return [scores_TR.numpy() for scores_TR in scores_WR.split(sentences.lengths.tolist())]


def write_captions(
    model: MultimodalRNN,
    vocabulary: Vocabulary,
    features_BF: npt.NDArray[np.generic],
    *,
    beam_size: int,
    max_words: int = 20,
) -> list[tuple[str, float]]:
    """A sentence and its log-probability for each feature."""
    features = torch.from_numpy(features_BF).to(model.mean_F.device)
    captions = beam_search(model, features, beam_size=beam_size, max_words=max_words)
    return [(" ".join(vocabulary.decode(caption.ids)), caption.log_prob) for caption in captions]
