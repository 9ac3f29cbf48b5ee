"""Beam search against a search of everything, and against itself written one sentence at a time."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch
from torch import Tensor

from vsa_ray.mrnn import Caption, CaptionerConfig, MultimodalRNN, beam_search
from vsa_ray.mrnn.beam import _best
from vsa_ray.mrnn.model import Cell, State
from vsa_ray.vocabulary import END

FEATURE_DIM = 4


def build(cell: Cell, vocabulary_size: int, *, end_bias: float = 0.0) -> MultimodalRNN:
    torch.manual_seed(0)
    model = MultimodalRNN(
        CaptionerConfig(cell=cell, hidden_dim=16, word_dim=8),
        feature_dim=FEATURE_DIM,
        vocabulary_size=vocabulary_size,
        log_frequencies_V=None,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5 if cell == "rnn" else 1.0)
    with torch.no_grad():
        model.output.bias[END] = end_bias
    return model.eval()


def features(num_images: int) -> Tensor:
    return torch.randn(num_images, FEATURE_DIM, generator=torch.Generator().manual_seed(1))


class NextWord:
    """log P(next word | image, words so far), for one image, with nothing batched."""

    def __init__(self, model: MultimodalRNN, feature_F: Tensor) -> None:
        self.model = model
        self.image_1G = model.image_inputs(feature_F[None])
        self.log_probs = cache(self._log_probs)
        self._state = cache(self._state_after)

    def _state_after(self, words: tuple[int, ...]) -> State:
        inputs_1G = self.model.word_inputs(torch.tensor([words[-1] if words else END]))
        if not words:
            return self.model.step(inputs_1G + self.image_1G, None)
        return self.model.step(inputs_1G, self._state(words[:-1]))

    def _log_probs(self, words: tuple[int, ...]) -> list[float]:
        values: list[float] = self.model.output(self._state(words)[0]).log_softmax(1)[0].tolist()
        return values


def best_of_all(next_word: NextWord, vocabulary_size: int, *, max_words: int) -> Caption:
    """The most probable of every sentence that there is."""
    captions = []
    for length in range(1, max_words + 1):
        for words in itertools.product(range(1, vocabulary_size), repeat=length):
            score = sum(next_word.log_probs(words[:t])[words[t]] for t in range(length))
            if length < max_words:
                score += next_word.log_probs(words)[END]
            captions.append(Caption(list(words), score))
    return max(captions, key=lambda caption: caption.log_prob)


def plain_beam_search(
    next_word: NextWord, *, beam_size: int, max_words: int, min_words: int = 1
) -> Caption:
    """The definition, to the cap, with no early stop: lists, and `sorted` for the ties."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for position in range(max_words):
        extensions = [
            (score + log_prob, rank, word)
            for rank, (score, words) in enumerate(live)
            for word, log_prob in enumerate(next_word.log_probs(words))
            if word != END or position >= min_words
        ]
        extensions = sorted(extensions, key=lambda item: (-item[0], item[1], item[2]))[:beam_size]
        finished += [(score, live[rank][1]) for score, rank, word in extensions if word == END]
        live = [(score, (*live[rank][1], word)) for score, rank, word in extensions if word != END]
    score, words = max(finished + live, key=lambda item: item[0])
    return Caption(list(words), score)


def assert_same(found: list[Caption], expected: list[Caption]) -> None:
    assert [caption.ids for caption in found] == [caption.ids for caption in expected]
    assert [caption.log_prob for caption in found] == pytest.approx(
        [caption.log_prob for caption in expected], abs=1e-4
    )


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize(("vocabulary_size", "max_words"), [(2, 3), (4, 4), (5, 3)])
@torch.inference_mode()
def test_wide_beam_finds_the_best_sentence_of_all(
    cell: Cell, vocabulary_size: int, max_words: int
) -> None:
    model, features_BF = build(cell, vocabulary_size), features(12)
    found = beam_search(
        model, features_BF, beam_size=vocabulary_size**max_words, max_words=max_words
    )
    expected = [
        best_of_all(NextWord(model, feature_F), vocabulary_size, max_words=max_words)
        for feature_F in features_BF
    ]
    assert_same(found, expected)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("beam_size", [1, 2, 7])
@pytest.mark.parametrize("min_words", [1, 3, 6])
@torch.inference_mode()
def test_equals_the_search_written_plainly(cell: Cell, beam_size: int, min_words: int) -> None:
    model, features_BF = build(cell, 150, end_bias=4.0), features(20)
    options = {"beam_size": beam_size, "max_words": 6, "min_words": min_words}
    found = beam_search(model, features_BF, **options)
    assert_same(
        found,
        [plain_beam_search(NextWord(model, feature_F), **options) for feature_F in features_BF],
    )
    lengths = {len(caption.ids) for caption in found}
    assert min(lengths) >= min_words
    assert len(lengths) > 1 or min_words == 6


@torch.inference_mode()
def test_equal_scores_go_to_the_better_parent_then_the_lower_id() -> None:
    model, features_BF = build("rnn", 151, end_bias=4.0), features(40)
    for values in (features_BF, *model.parameters()):
        values.mul_(4).round_().div_(4)  # sums are exact in any order, so equal words stay equal
    shuffled_V = torch.randperm(150, generator=torch.Generator().manual_seed(2)) + 1
    for weight in (model.words.weight, model.output.weight, model.output.bias):
        weight[shuffled_V[:75]] = weight[shuffled_V[75:]]  # every word has a double somewhere
    for beam_size in (1, 2, 7):
        found = beam_search(model, features_BF, beam_size=beam_size, max_words=5)
        expected = [
            plain_beam_search(NextWord(model, feature_F), beam_size=beam_size, max_words=5)
            for feature_F in features_BF
        ]
        assert_same(found, expected)


@torch.inference_mode()
def test_beam_of_one_is_greedy() -> None:
    model, features_BF = build("rnn", 150, end_bias=4.0), features(20)
    expected = []
    for feature_F in features_BF:
        next_word = NextWord(model, feature_F)
        words: list[int] = []
        while len(words) < 8:
            log_probs = next_word.log_probs(tuple(words))
            word = max(range(0 if words else 1, 150), key=log_probs.__getitem__)
            if word == END:
                break
            words.append(word)
        expected.append(words)
    found = beam_search(model, features_BF, beam_size=1, max_words=8)
    assert [caption.ids for caption in found] == expected


@pytest.mark.parametrize("beam_size", [1, 7])
def test_caption_does_not_depend_on_the_batch(beam_size: int) -> None:
    model, features_BF = build("lstm", 150, end_bias=3.0), features(30)
    together = beam_search(model, features_BF, beam_size=beam_size)
    alone = [
        caption
        for feature_F in features_BF
        for caption in beam_search(model, feature_F[None], beam_size=beam_size)
    ]
    assert_same(together, alone)


def test_log_prob_is_the_models_likelihood_of_the_sentence() -> None:
    model, features_BF = build("lstm", 20, end_bias=2.0), features(10)
    captions = beam_search(model, features_BF, max_words=50)
    assert max(len(caption.ids) for caption in captions) < 50
    ids_W = torch.tensor([word for caption in captions for word in caption.ids])
    lengths_B = torch.tensor([len(caption.ids) for caption in captions])
    log_probs_B = torch.tensor([caption.log_prob for caption in captions])
    torch.testing.assert_close(log_probs_B, -model(features_BF, ids_W, lengths_B).detach())


def test_empty_sentence_is_never_written() -> None:
    captions = beam_search(build("rnn", 20, end_bias=50.0), features(5))
    assert [len(caption.ids) for caption in captions] == [1] * 5
    assert all(math.isfinite(caption.log_prob) for caption in captions)


def test_highest_first_and_the_first_of_equals() -> None:
    scores_AN = torch.tensor([[-3.0, 1.0, -math.inf, 1.0, 0.5, 1.0, -0.5]])
    assert _best(scores_AN, 3).tolist() == [[1, 3, 5]]
    assert _best(scores_AN, 9).tolist() == [[1, 3, 5, 4, 6, 0, 2]]


def test_settings_out_of_range_are_refused() -> None:
    model = build("rnn", 5)
    with pytest.raises(ValueError, match="beam_size must be >= 1, got 0"):
        beam_search(model, features(1), beam_size=0)
    with pytest.raises(ValueError, match="1 <= min_words <= max_words, got 3 and 2"):
        beam_search(model, features(1), min_words=3, max_words=2)
    with pytest.raises(ValueError, match="got 0 and 20"):
        beam_search(model, features(1), min_words=0)
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        beam_search(model.train(), features(1))


def test_no_features_no_captions() -> None:
    assert beam_search(build("rnn", 5), features(0)) == []
