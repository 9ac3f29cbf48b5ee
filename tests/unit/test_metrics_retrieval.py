from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from vsa_ray.metrics import retrieval

# Two images; sentences 0 and 1 are of image 0, sentence 2 is of image 1.
IMAGE_OF = np.array([0, 0, 1])


def ranks_by_loops(scores_BC, image_of_C):
    """The definition, one pair at a time."""
    images, sentences = scores_BC.shape
    annotation = []
    for b in range(images):
        best = max(scores_BC[b, c] for c in range(sentences) if image_of_C[c] == b)
        false = [scores_BC[b, c] for c in range(sentences) if image_of_C[c] != b]
        annotation.append(1 + sum(score >= best for score in false))
    search = []
    for c in range(sentences):
        true = scores_BC[image_of_C[c], c]
        false = [scores_BC[b, c] for b in range(images) if b != image_of_C[c]]
        search.append(1 + sum(score >= true for score in false))
    return annotation, search


def test_ranks_by_hand():
    scores_BC = np.array([[0.1, 0.9, 0.5], [0.8, 0.2, 0.3]])
    # Image 0 ranks sentences 1, 2, 0: its best is first. Image 1 ranks 0, 2, 1: its own is second.
    assert retrieval.annotation_ranks(scores_BC, IMAGE_OF).tolist() == [1, 2]
    # Sentence 0 prefers image 1, sentence 1 its own image 0, sentence 2 the false image 0.
    assert retrieval.search_ranks(scores_BC, IMAGE_OF).tolist() == [2, 1, 2]

    assert retrieval.image_annotation(scores_BC, IMAGE_OF) == retrieval.Recall(50, 100, 100, 1.5)
    search = retrieval.image_search(scores_BC, IMAGE_OF)
    assert search.r1 == pytest.approx(100 / 3)
    assert (search.r5, search.r10, search.median_rank) == (100, 100, 2)


def test_recall_counts_the_ranks_up_to_k():
    recall = retrieval.Recall.of_ranks(np.array([1, 2, 5, 6, 10, 11, 12, 400]))
    assert recall == retrieval.Recall(12.5, 37.5, 62.5, 8.0)


def test_ties_count_against_the_model():
    scores_BC = np.zeros((20, 100), dtype=np.float32)
    image_of_C = np.repeat(np.arange(20), 5)
    assert retrieval.image_annotation(scores_BC, image_of_C) == retrieval.Recall(0, 0, 0, 96)
    assert retrieval.image_search(scores_BC, image_of_C) == retrieval.Recall(0, 0, 0, 20)


def test_own_sentences_that_tie_do_not_push_each_other_down():
    scores_BC = np.array([[0.7, 0.7, 0.5], [0.0, 0.0, 1.0]])
    assert retrieval.annotation_ranks(scores_BC, IMAGE_OF).tolist() == [1, 1]


@pytest.mark.parametrize("block_scores", [1, 50, 1 << 20])
def test_ranks_equal_plain_loops_with_ties_and_uneven_sentences(monkeypatch, block_scores):
    monkeypatch.setattr(retrieval, "_BLOCK_SCORES", block_scores)
    rng = np.random.default_rng(0)
    image_of_C = rng.permutation(np.concatenate([np.arange(11), rng.integers(0, 11, size=20)]))
    scores_BC = rng.integers(0, 5, size=(11, 31)).astype(np.float32)
    scores_BC[rng.random(scores_BC.shape) < 0.1] = -np.inf
    annotation, search = ranks_by_loops(scores_BC, image_of_C)
    assert retrieval.annotation_ranks(scores_BC, image_of_C).tolist() == annotation
    assert retrieval.search_ranks(scores_BC, image_of_C).tolist() == search


def test_ranks_equal_argsort_where_scores_are_distinct():
    rng = np.random.default_rng(1)
    image_of_C = np.repeat(np.arange(60), 5)
    scores_BC = rng.permutation(60 * 300).reshape(60, 300).astype(np.float32)

    sentence_rank_BC = np.argsort(np.argsort(-scores_BC, axis=1), axis=1) + 1
    annotation = [sentence_rank_BC[b, image_of_C == b].min() for b in range(60)]
    image_rank_BC = np.argsort(np.argsort(-scores_BC, axis=0), axis=0) + 1
    search = image_rank_BC[image_of_C, np.arange(300)]

    assert retrieval.annotation_ranks(scores_BC, image_of_C).tolist() == annotation
    assert retrieval.search_ranks(scores_BC, image_of_C).tolist() == search.tolist()


def test_chance_equals_all_orders_counted():
    image_of_C = np.array([0, 1, 1, 2, 2, 2, 2])  # 1, 2 and 4 sentences
    places = np.array(list(permutations(range(1, 8))))  # the rank of each sentence, in every order
    ranks = np.stack([places[:, image_of_C == b].min(axis=1) for b in range(3)])
    chance = retrieval.chance_annotation(image_of_C, 3)
    assert chance.r1 == pytest.approx(100 * np.mean(ranks <= 1))
    assert chance.r5 == pytest.approx(100 * np.mean(ranks <= 5))
    assert chance.r10 == 100
    assert chance.median_rank == np.median(ranks)


@pytest.mark.parametrize(("images", "median"), [(1000, 500.5), (1001, 501.0)])
def test_chance_of_search_is_uniform(images, median):
    chance = retrieval.chance_search(np.repeat(np.arange(images), 5), images)
    assert chance.r1 == pytest.approx(100 / images)
    assert chance.r10 == pytest.approx(1000 / images)
    assert chance.median_rank == median


def test_chance_is_what_random_scores_get():
    rng = np.random.default_rng(2)
    image_of_C = np.repeat(np.arange(100), 5)
    runs = [
        retrieval.image_annotation(rng.random((100, 500), dtype=np.float32), image_of_C)
        for _ in range(50)
    ]
    chance = retrieval.chance_annotation(image_of_C, 100)
    # Standard error of 5,000 queries: 0.4 percent at R@10.
    assert np.mean([run.r10 for run in runs]) == pytest.approx(chance.r10, abs=1.6)
    assert np.mean([run.median_rank for run in runs]) == pytest.approx(chance.median_rank, abs=5)


def test_nan_scores_are_counted():
    scores_BC = np.ones((2, 3), dtype=np.float32)
    scores_BC[0, 1] = scores_BC[1, 2] = np.nan
    for measure in (retrieval.image_annotation, retrieval.image_search):
        with pytest.raises(ValueError, match="2 of 6 scores are NaN"):
            measure(scores_BC, IMAGE_OF)


@pytest.mark.parametrize(
    ("image_of_C", "message"),
    [
        ([0, 1], r"2 images and 3 sentences .* shape \(2,\)"),
        ([0, 0, 0], "image 1 has no sentence"),
        ([0, 1, 2], "names image 2, there are 2"),
    ],
)
def test_sentences_that_do_not_fit(image_of_C, message):
    with pytest.raises(ValueError, match=message):
        retrieval.image_annotation(np.ones((2, 3)), np.array(image_of_C))


def test_nothing_to_rank():
    with pytest.raises(ValueError, match="no images"):
        retrieval.image_search(np.ones((0, 0)), np.array([], dtype=np.int64))
