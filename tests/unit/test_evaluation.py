"""Models against tables: what is compared with what, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from vsa_ray import batches, evaluation, schema
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner, Captioner
from vsa_ray.evaluation import Pairs
from vsa_ray.vocabulary import Vocabulary


def of_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


def test_pairs_are_good_images_and_their_sentences(
    regions: pa.Table, sentences: pa.Table, vocabulary: Vocabulary
) -> None:
    # Neither the broken image and its sentence, nor images whose sentences were not asked for.
    data = evaluation.pairs(regions, of_split(sentences, "test"), vocabulary)
    assert data.features.lengths.tolist() == [3, 1]  # pair.jpg, plain.jpg
    assert data.image_of_C.tolist() == [0, 0, 1, 1]
    assert [vocabulary.decode(ids.tolist()) for ids in data.words.split()] == [
        ["a", "dog", "runs", "a", "red", "ball"],
        ["dog"],
        ["a", "ball"],
        [],
    ]


def test_pairs_of_two_corpora(
    regions: pa.Table, sentences: pa.Table, vocabulary: Vocabulary
) -> None:
    broken = sentences.filter(pc.equal(sentences["image_id"], "broken.jpg"))
    with pytest.raises(ValueError, match="no sentence belongs to an image of the regions table"):
        evaluation.pairs(regions, broken, vocabulary)


def eq_8(model: AlignmentModel, features_RF: torch.Tensor, ids_T: torch.Tensor) -> float:
    """S_kl = sum_t max_i v_i . s_t, written out; over the words, or their root, as configured."""
    if not len(ids_T):
        return 0.0
    v_RD = model.encode_regions(features_RF)
    s_TD = model.encode_words(ids_T, torch.tensor([len(ids_T)]))
    total = sum(max(float(v_D @ s_D) for v_D in v_RD) for s_D in s_TD)
    return (
        total
        / {"sum": 1, "sqrt_length": len(ids_T) ** 0.5, "cosine": len(ids_T)}[model.config.score]
    )


@pytest.mark.parametrize("score", ["sum", "sqrt_length", "cosine"])
@torch.no_grad()
def test_retrieval_scores_are_eq_8(score: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "SENTENCES_AT_ONCE", 2)
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


def test_retrieval_beside_chance(
    regions: pa.Table, sentences: pa.Table, aligner: Aligner, vocabulary: Vocabulary
) -> None:
    data = evaluation.pairs(regions, of_split(sentences, "train"), vocabulary)
    found = evaluation.retrieval(aligner.model, data)
    assert (found["images"], found["sentences"]) == (2, 3)
    assert found["image_annotation"]["r1"] == 100.0
    assert found["image_search"]["r1"] == 100.0
    assert found["image_search"]["median_rank"] == 1.0
    assert found["chance"]["image_search"]["r1"] == 50.0
    assert found["chance"].keys() == {"image_annotation", "image_search"}


LEFT, RIGHT, WHOLE = ([0, 0, 100, 100], [100, 0, 200, 100], [0, 0, 200, 100])


@pytest.fixture
def phrases() -> pa.Table:
    """Boxes that people drew, on copies twice as large."""
    whole = {"split": "test", "width": 200, "height": 100}
    rows = [
        {
            **whole,
            "sentence_id": "pair.jpg#0",
            "image_id": "pair.jpg",
            "words": ["a", "dog", "runs", "a", "red", "ball"],
            "phrases": [
                {"first": 0, "stop": 2, "boxes": [LEFT]},
                {"first": 3, "stop": 6, "boxes": [RIGHT]},
                {"first": 5, "stop": 6, "boxes": [RIGHT]},  # though the whole image fits it better
                {"first": 2, "stop": 3, "boxes": [RIGHT]},  # wrong: what runs is on the left
            ],
        },
        {
            **whole,
            "sentence_id": "plain.jpg#0",
            "image_id": "plain.jpg",
            "words": ["a", "ball"],
            "phrases": [{"first": 0, "stop": 2, "boxes": [WHOLE]}],
        },
        {
            **whole,
            "sentence_id": "pair.jpg#1",
            "image_id": "pair.jpg",
            "words": ["zebra", "dog", "zebra"],
            "phrases": [
                {"first": 0, "stop": 1, "boxes": [WHOLE]},  # no word of it is known
                {"first": 1, "stop": 3, "boxes": [RIGHT, LEFT]},
            ],
        },
        {
            **whole,
            "sentence_id": "plain.jpg#1",
            "image_id": "plain.jpg",
            "words": ["zebra"],
            "phrases": [{"first": 0, "stop": 1, "boxes": [WHOLE]}],
        },
        {
            **whole,
            "sentence_id": "broken.jpg#0",
            "image_id": "broken.jpg",
            "words": ["a", "dog"],
            "phrases": [{"first": 0, "stop": 2, "boxes": [WHOLE]}],
        },
    ]
    return pa.Table.from_pylist(rows, schema=schema.PHRASES)


def test_grounding_of_a_hand_made_picture(
    regions: pa.Table, phrases: pa.Table, aligner: Aligner
) -> None:
    found = evaluation.grounding(aligner, regions, phrases)
    assert found["phrases"] == 9
    assert found["answered"] == 6  # not: two of unknown words, one of the broken image
    assert found["iou50"] == pytest.approx(100 * 5 / 9)
    assert found["pointing"] == pytest.approx(100 * 5 / 9)


def test_grounding_without_a_single_known_word(
    regions: pa.Table, phrases: pa.Table, aligner: Aligner
) -> None:
    unknown = phrases.filter(pc.equal(phrases["sentence_id"], "plain.jpg#1"))
    found = evaluation.grounding(aligner, regions, unknown)
    assert (found["answered"], found["iou50"], found["whole_image_iou50"]) == (0, 0.0, 100.0)


@pytest.fixture
def captions(regions: pa.Table) -> pa.Table:
    written = {"pair.jpg": "a dog runs a red ball", "plain.jpg": "a ball", "dog.jpg": "a ball"}
    rows = [
        {
            "image_id": image_id,
            "caption": written.get(image_id),
            "regions": [],
            "status": "ok" if image_id in written else "unreadable",
        }
        for image_id in regions["image_id"].to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=schema.CAPTIONS)


@pytest.mark.usefixtures("no_java")
def test_captions_beside_the_nearest_neighbours(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    # An image a block, the broken one alone in its own.
    blocks = [regions.slice(i, 1) for i in (0, 4, 1)]
    found = evaluation.captioning(captions, of_split(regions, "test"), sentences, blocks)
    assert found["images"] == 2
    assert found["bleu1"] == pytest.approx(100.0)
    # Both are nearest to ball.jpg and get "A red ball.": a plain ball is not red.
    neighbour = found["nearest_neighbour"]
    assert neighbour["bleu1"] == pytest.approx(100 * 5 / 6)
    assert neighbour.keys() == found.keys() - {"images", "nearest_neighbour"}


@pytest.mark.usefixtures("no_java")
def test_an_image_that_was_not_captioned_does_not_count(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    # It failed for the job that captions, though regions had been found before.
    missing = pa.Table.from_pylist(
        [
            row | ({"caption": None} if row["image_id"] == "plain.jpg" else {})
            for row in captions.to_pylist()
        ],
        schema=schema.CAPTIONS,
    )
    train, test = of_split(regions, "train"), of_split(regions, "test")
    assert evaluation.captioning(missing, test, sentences, [train])["images"] == 1


@pytest.mark.usefixtures("no_java")
def test_no_neighbours_without_a_train_split(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    found = evaluation.captioning(captions, of_split(regions, "test"), sentences, [])
    assert found["images"] == 2
    assert found["nearest_neighbour"] is None


def test_captions_that_are_of_no_such_image(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    with pytest.raises(ValueError, match="there are no captions to score"):
        evaluation.captioning(captions.slice(0, 0), regions, sentences, [])


def test_regions_encoded_in_parts_score_the_same(
    aligner: Aligner, regions: pa.Table, sentences: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = evaluation.pairs(regions, sentences, aligner.vocabulary)
    whole = evaluation.retrieval_scores(aligner.model, data)
    monkeypatch.setattr(evaluation, "REGIONS_AT_ONCE", 2)
    monkeypatch.setattr(evaluation, "SENTENCES_AT_ONCE", 3)
    assert np.allclose(evaluation.retrieval_scores(aligner.model, data), whole)


def test_word_scores(aligner: Aligner, regions: pa.Table) -> None:
    features_RF = batches.features(regions.slice(2, 1)).rows
    sentences = Ragged.of([np.array([2, 3]), np.array([], dtype=np.int64)])
    dog_ball, nothing = evaluation.word_scores(aligner.model, features_RF, sentences)
    assert dog_ball.tolist() == [[1.5, 4.0, 0.0], [4.5, 0.0, 4.0]]
    assert nothing.shape == (0, 3)


def test_captions_are_words(captioner: Captioner, regions: pa.Table) -> None:
    features_BF = batches.whole_image_features(regions.slice(0, 4))
    written = evaluation.write_captions(
        captioner.model, captioner.vocabulary, features_BF, beam_size=2, max_words=3
    )
    assert len(written) == 4
    for caption, log_prob in written:
        assert 1 <= len(caption.split()) <= 3
        assert set(caption.split()) <= set(captioner.vocabulary.words)
        assert log_prob < 0
