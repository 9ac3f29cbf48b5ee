"""Images and sentences that are to find one another: what is compared, and what is left out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from vsa_ray import batches, evaluation
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner
from vsa_ray.evaluation import Pairs, ranking


def of_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


def test_pairs_are_good_images_and_their_sentences(
    regions: pa.Table, sentences: pa.Table, aligner: Aligner
) -> None:
    # Neither the broken image and its sentence, nor images whose sentences were not asked for.
    data = evaluation.pairs(regions, of_split(sentences, "test"), aligner)
    assert data.features.lengths.tolist() == [3, 1]  # pair.jpg, plain.jpg
    assert data.image_of_C.tolist() == [0, 0, 1, 1]
    assert [aligner.vocabulary.decode(ids.tolist()) for ids in data.words.split()] == [
        ["a", "dog", "runs", "a", "red", "ball"],
        ["dog"],
        ["a", "ball"],
        [],
    ]


def test_pairs_of_two_corpora(regions: pa.Table, sentences: pa.Table, aligner: Aligner) -> None:
    broken = sentences.filter(pc.equal(sentences["image_id"], "broken.jpg"))
    with pytest.raises(ValueError, match="no sentence belongs to a usable image"):
        evaluation.pairs(regions, broken, aligner)


def eq_8(model: AlignmentModel, features_RF: torch.Tensor, ids_T: torch.Tensor) -> float:
    """S_kl = sum_t max_i v_i . s_t, written out; over the words, or their root, as configured."""
    if not len(ids_T):
        return 0.0
    v_RD = model.encode_regions(features_RF)
    s_TD = model.encode_words(ids_T, torch.tensor([len(ids_T)]))
    total = sum(max(float(v_D @ s_D) for v_D in v_RD) for s_D in s_TD)
    return total / {"sqrt_length": len(ids_T) ** 0.5, "cosine": len(ids_T)}.get(
        model.config.score, 1
    )


@pytest.mark.parametrize("score", ["sum", "sqrt_length", "cosine", "sentence_cosine"])
@torch.no_grad()
def test_retrieval_scores_are_eq_8(score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "SENTENCES_AT_ONCE", 2)
    torch.manual_seed(0)
    config = AlignmentConfig(embed_dim=8, hidden_dim=5, word_dim=4, score=score)
    model = AlignmentModel(config, feature_dim=6, vocabulary_size=9).eval()
    images = [torch.randn(regions, 6).half() for regions in (3, 1, 5)]
    sentences = [torch.randint(1, 9, (words,)) for words in (4, 0, 1, 7, 2)]
    data = Pairs(
        Ragged.of([features.numpy() for features in images]),
        Ragged.of([ids.numpy() for ids in sentences]),
        np.array([0, 0, 1, 2, 2]),
    )
    scores_BC = evaluation.retrieval_scores(model, data)
    expected = [[eq_8(model, features, ids) for ids in sentences] for features in images]
    np.testing.assert_allclose(scores_BC, expected, rtol=1e-5, atol=1e-6)


def test_retrieval_beside_chance(regions: pa.Table, sentences: pa.Table, aligner: Aligner) -> None:
    data = evaluation.pairs(regions, of_split(sentences, "train"), aligner)
    found = evaluation.retrieval(aligner.model, data)
    assert (found["images"], found["sentences"]) == (2, 3)
    assert found["image_annotation"]["r1"] == 100.0
    assert found["image_search"]["r1"] == 100.0
    assert found["image_search"]["median_rank"] == 1.0
    assert found["chance"]["image_search"]["r1"] == 50.0
    assert found["chance"].keys() == {"image_annotation", "image_search"}


@pytest.mark.parametrize(("which", "at"), [("whole_image", slice(0, 1)), ("boxes", slice(1, 3))])
@torch.no_grad()
def test_a_model_is_scored_by_the_regions_that_it_sees(
    which: Any, at: slice, aligner: Aligner, regions: pa.Table, sentences: pa.Table
) -> None:
    model, features_RF = aligner.model, batches.features(regions.slice(2, 1)).rows[at]
    model.config = dataclasses.replace(model.config, regions=which)
    data = evaluation.pairs(regions.slice(2, 1), sentences, aligner)
    scores_BC = evaluation.retrieval_scores(model, data)
    expected = [eq_8(model, features_RF.float(), ids) for ids in data.words.split()]
    assert scores_BC[0].tolist() == pytest.approx(expected)


def test_regions_encoded_in_parts_score_the_same(
    aligner: Aligner, regions: pa.Table, sentences: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = evaluation.pairs(regions, sentences, aligner)
    whole = evaluation.retrieval_scores(aligner.model, data)
    monkeypatch.setattr(ranking, "REGIONS_AT_ONCE", 2)
    monkeypatch.setattr(ranking, "SENTENCES_AT_ONCE", 3)
    assert np.allclose(evaluation.retrieval_scores(aligner.model, data), whole)
