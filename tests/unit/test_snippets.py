"""The chain MRF against exhaustive search, and what is made of its chains."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vsa_ray.snippets import Run, SnippetConfig, runs, viterbi


def energy(scores_TM: np.ndarray, chain: tuple[int, ...], beta: float) -> float:
    """Eqs. 10-12, written out."""
    total = sum(float(scores_TM[t, state]) for t, state in enumerate(chain))
    return total + beta * sum(a == b for a, b in itertools.pairwise(chain))


def best_chain(scores_TM: np.ndarray, beta: float) -> float:
    words, regions = scores_TM.shape
    chains = itertools.product(range(regions), repeat=words)
    return max(energy(scores_TM, chain, beta) for chain in chains)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 5.0])
def test_viterbi_finds_the_best_of_all_chains(beta: float) -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 4), (5, 1), (4, 3), (6, 3), (3, 5), (0, 3)]
    scores = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    for scores_TM, states in zip(scores, viterbi(scores, beta), strict=True):
        assert len(states) == len(scores_TM)
        if len(states):
            found = energy(scores_TM, tuple(states.tolist()), beta)
            assert found == pytest.approx(best_chain(scores_TM, beta), abs=1e-6)


def test_a_sentence_is_aligned_alike_alone_and_among_longer_ones() -> None:
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=(t, m)).astype(np.float32) for t, m in [(3, 20), (15, 2), (7, 7)]]
    together = viterbi(scores, 0.5)
    for own, states in zip(scores, together, strict=True):
        np.testing.assert_array_equal(states, viterbi([own], 0.5)[0])


def test_without_beta_every_word_takes_its_best_region() -> None:
    scores_TM = np.random.default_rng(2).normal(size=(9, 6)).astype(np.float32)
    np.testing.assert_array_equal(viterbi([scores_TM], 0.0)[0], scores_TM.argmax(axis=1))


def test_a_large_beta_puts_the_sentence_on_one_region() -> None:
    scores_TM = np.random.default_rng(3).normal(size=(9, 6)).astype(np.float32)
    (states,) = viterbi([scores_TM], 1e6)
    assert set(states.tolist()) == {int(scores_TM.sum(axis=0).argmax())}


def test_no_sentences() -> None:
    assert viterbi([], 1.0) == []


def test_runs_are_maximal_and_in_order() -> None:
    assert list(runs(np.array([2, 2, 0, 2, 2, 2]))) == [Run(2, 0, 2), Run(0, 2, 3), Run(2, 3, 6)]
    assert list(runs(np.empty(0, dtype=np.int64))) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -1.0}, r"SnippetConfig.beta must be finite and >= 0, got -1.0"),
        ({"beta": float("inf")}, r"SnippetConfig.beta must be finite and >= 0, got inf"),
        ({"beta": float("nan")}, r"SnippetConfig.beta must be finite and >= 0, got nan"),
        ({"detector_weight": -1}, r"SnippetConfig.detector_weight must be finite and >= 0, got -1"),
        ({"min_words": 0}, r"SnippetConfig.min_words must be >= 1, got 0"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SnippetConfig(**settings)  # type: ignore[arg-type]
