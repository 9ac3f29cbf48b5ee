"""The caption model against Eqs. 13-15 written as plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN
from vsa_ray.mrnn.model import Cell
from vsa_ray.vocabulary import END

FEATURE_DIM, VOCABULARY_SIZE = 3, 6
SENTENCES = [[4, 2], [], [1, 5, 3, 3], [2]]  # in no order of length, one without a known word


def build(cell: Cell, *, dropout: float = 0.0) -> MultimodalRNN:
    """A small float64 model whose every parameter matters."""
    torch.manual_seed(0)
    config = CaptionerConfig(cell=cell, hidden_dim=3, word_dim=2, dropout=dropout)
    model = MultimodalRNN(
        config,
        feature_dim=FEATURE_DIM,
        vocabulary_size=VOCABULARY_SIZE,
        log_frequencies_V=torch.randn(VOCABULARY_SIZE),
    ).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def batch() -> tuple[Tensor, Tensor, Tensor]:
    features_BF = torch.randn(
        len(SENTENCES), FEATURE_DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    ids_W = torch.tensor([word for sentence in SENTENCES for word in sentence])
    return features_BF, ids_W, torch.tensor([len(sentence) for sentence in SENTENCES])


def times(matrix: Tensor, vector: list[float]) -> list[float]:
    return [sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix.tolist()]


def add(*vectors: list[float]) -> list[float]:
    return [sum(values) for values in zip(*vectors, strict=True)]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def plain_loss(model: MultimodalRNN, feature: list[float], sentence: list[int]) -> float:
    """-log P(sentence, END | feature), one number at a time."""
    size = model.config.hidden_dim
    state, carried = [0.0] * size, [0.0] * size
    loss = 0.0
    for t, (word, target) in enumerate(zip([END, *sentence], [*sentence, END], strict=True)):
        inner = add(
            times(model.word_input.weight, model.words.weight[word].tolist()),
            times(model.recurrence.weight, state),
            model.word_input.bias.tolist(),
        )
        if t == 0:
            inner = add(inner, times(model.image_input.weight, feature))
        if model.config.cell == "rnn":
            state = [max(0.0, value) for value in inner]
        else:
            for j in range(size):
                forget, write, read = (sigmoid(inner[gate * size + j]) for gate in range(3))
                carried[j] = forget * carried[j] + write * math.tanh(inner[3 * size + j])
                state[j] = read * math.tanh(carried[j])
        logits = add(times(model.output.weight, state), model.output.bias.tolist())
        loss += math.log(sum(math.exp(logit) for logit in logits)) - logits[target]
    return loss


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_forward_equals_the_papers_equations(cell: Cell) -> None:
    model = build(cell)
    features_BF, ids_W, lengths_B = batch()
    expected = [
        plain_loss(model, feature, sentence)
        for feature, sentence in zip(features_BF.tolist(), SENTENCES, strict=True)
    ]
    losses_B = model(features_BF, ids_W, lengths_B)
    torch.testing.assert_close(losses_B, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_gradients_equal_finite_differences(cell: Cell) -> None:
    model = build(cell)
    features_BF, ids_W, lengths_B = batch()
    features_BF.requires_grad_()
    names, parameters = zip(*model.named_parameters(), strict=True)

    def loss(features_BF: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        losses_B: Tensor = torch.func.functional_call(model, state, (features_BF, ids_W, lengths_B))
        return losses_B

    assert torch.autograd.gradcheck(loss, (features_BF, *parameters))


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_thirty_steps_learn_four_sentences_by_heart(cell: Cell) -> None:
    torch.manual_seed(0)
    model = MultimodalRNN(
        CaptionerConfig(cell=cell, hidden_dim=32, word_dim=16, dropout=0.0),
        feature_dim=FEATURE_DIM,
        vocabulary_size=VOCABULARY_SIZE,
        log_frequencies_V=None,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    features_BF, ids_W, lengths_B = batch()
    tokens = len(ids_W) + len(lengths_B)
    for _ in range(30):
        loss = model(features_BF, ids_W, lengths_B).sum() / tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 < math.log(VOCABULARY_SIZE)


def test_first_predictions_are_the_word_frequencies() -> None:
    log_frequencies_V = torch.log_softmax(torch.arange(6.0), dim=0)
    model = MultimodalRNN(
        CaptionerConfig(), feature_dim=3, vocabulary_size=6, log_frequencies_V=log_frequencies_V
    ).eval()
    losses_B = model(torch.zeros(1, 3), torch.tensor([5]), torch.tensor([1]))
    expected = -(log_frequencies_V[5] + log_frequencies_V[END])
    torch.testing.assert_close(losses_B, expected[None], rtol=0.02, atol=0)


def test_a_new_rnn_carries_the_image_on() -> None:
    model = MultimodalRNN(
        CaptionerConfig(hidden_dim=4), feature_dim=3, vocabulary_size=6, log_frequencies_V=None
    )
    seen_NH = model.image_inputs(torch.randn(2, 3)).relu()
    later = model.step(torch.zeros(2, 4), model.step(torch.zeros(2, 4), (seen_NH,)))
    assert seen_NH.any()
    assert torch.equal(later[0], seen_NH)


def test_dropout_acts_around_the_recurrence_and_not_inside() -> None:
    model = build("rnn", dropout=0.5)
    assert not torch.equal(model(*batch()), model(*batch()))
    inputs_NG, state = torch.randn(2, 3).double(), (torch.randn(2, 3).double(),)
    assert torch.equal(model.step(inputs_NG, state)[0], model.step(inputs_NG, state)[0])
    model.eval()
    assert torch.equal(model(*batch()), model(*batch()))


def test_standardised_features_travel_with_the_checkpoint() -> None:
    features_BF, ids_W, lengths_B = batch()
    mean_F, scale_F = (
        torch.tensor([1.0, -2.0, 3.0]).double(),
        torch.tensor([2.0, 0.5, 0.0]).double(),
    )
    expected = build("rnn")(
        (features_BF - mean_F) / torch.tensor([2.0, 0.5, 1.0]), ids_W, lengths_B
    )
    trained, loaded = build("rnn"), build("rnn")
    trained.standardise(mean_F, scale_F)
    loaded.load_state_dict(trained.state_dict())
    torch.testing.assert_close(loaded(features_BF, ids_W, lengths_B), expected)


def test_features_may_come_as_stored_in_half_precision() -> None:
    features_BF, ids_W, lengths_B = batch()
    half_BF = features_BF.half()
    assert torch.equal(
        build("rnn")(half_BF, ids_W, lengths_B), build("rnn")(half_BF.double(), ids_W, lengths_B)
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cell", "gru", r"CaptionerConfig\.cell must be 'rnn' or 'lstm', got 'gru'"),
        ("hidden_dim", 0, r"CaptionerConfig\.hidden_dim must be >= 1, got 0"),
        ("word_dim", -1, r"CaptionerConfig\.word_dim must be >= 1, got -1"),
        ("dropout", 1.0, r"CaptionerConfig\.dropout must be in \[0, 1\), got 1\.0"),
    ],
)
def test_config_refuses(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionerConfig(**{field: value})  # type: ignore[arg-type]


def test_batch_that_does_not_fit_together_is_refused() -> None:
    model = build("rnn")
    features_BF, ids_W, lengths_B = batch()
    with pytest.raises(ValueError, match="got 3 features for 4 sentences"):
        model(features_BF[:3], ids_W, lengths_B)
    with pytest.raises(ValueError, match="adds up to 7, ids_W has 6 words"):
        model(features_BF, ids_W[1:], lengths_B)
    with pytest.raises(ValueError, match="at least one sentence"):
        model(features_BF[:0], ids_W[:0], lengths_B[:0])


def test_vocabulary_without_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary_size must be >= 2"):
        MultimodalRNN(CaptionerConfig(), feature_dim=3, vocabulary_size=1, log_frequencies_V=None)
