"""Images for a text: Eq. 8 written out, and as one inner product where that is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from vsa_ray import batches
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.checkpoints import Aligner
from vsa_ray.search import search
from vsa_ray.vocabulary import Vocabulary


def untrained(vocabulary: Vocabulary, **settings: Any) -> Aligner:
    torch.manual_seed(0)
    size = len(vocabulary)
    config = AlignmentConfig(embed_dim=8, hidden_dim=5, word_dim=4, **settings)
    width = size + batches.DETECTION_DIM * config.detections
    model = AlignmentModel(config, feature_dim=width, vocabulary_size=size)
    return Aligner(model.eval(), vocabulary)


def test_the_scores_are_eq_8(aligner: Aligner, regions: pa.Table) -> None:
    texts = ["A dog, a BALL!", "zebra dog"]
    image_ids, scores_BC = search(aligner, regions, texts)
    assert image_ids == ["dog.jpg", "ball.jpg", "pair.jpg", "plain.jpg"]  # not the broken one
    # In this model v_i . s_t is the feature of region i at the id of word t.
    rows = dict(zip(regions["image_id"].to_pylist(), regions["features"].to_pylist(), strict=True))
    for image_id, scores_C in zip(image_ids, scores_BC, strict=True):
        for ids, score in zip(([1, 2, 1, 3], [2]), scores_C, strict=True):
            expected = sum(max(feature[i] for feature in rows[image_id]) for i in ids)
            assert score == pytest.approx(expected)


@pytest.mark.parametrize("text", ["brnn", "words"])
@pytest.mark.parametrize("detections", [False, True])
@torch.no_grad()
def test_of_whole_images_a_sentence_cosine_is_one_inner_product(
    text: Any, detections: bool, vocabulary: Vocabulary, regions: pa.Table
) -> None:
    """What README says of an index."""
    settings = {"regions": "whole_image", "score": "sentence_cosine", "text": text}
    own = untrained(vocabulary, detections=detections, **settings)
    _, scores_BC = search(own, regions, ["a dog runs", "red ball"])
    features = batches.features(regions.slice(0, 4), with_detections=detections)
    images_BD = own.model.encode_regions(torch.stack([rows[0] for rows in features.split()]))
    ids = [vocabulary.encode(words) for words in (["a", "dog", "runs"], ["red", "ball"])]
    texts_CD = torch.stack(
        [
            own.model.encode_words(torch.from_numpy(one), torch.tensor([len(one)])).sum(0)
            for one in ids
        ]
    )
    for vectors in (images_BD, texts_CD):
        assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * len(vectors))
    np.testing.assert_allclose(scores_BC, images_BD @ texts_CD.T, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_searched(aligner: Aligner, regions: pa.Table) -> None:
    with pytest.raises(ValueError, match="no text"):
        search(aligner, regions, [])
    with pytest.raises(ValueError, match="knows no word of 'Zebra'"):
        search(aligner, regions, ["a dog", "Zebra"])
    with pytest.raises(ValueError, match="no image of the regions table is usable"):
        search(aligner, regions.slice(4), ["a dog"])
