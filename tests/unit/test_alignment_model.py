"""Eqs. 1-6 against plain loops over one sentence at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vsa_ray.alignment import AlignmentConfig, AlignmentModel, image_sentence_scores, ranking_loss

SMALL = AlignmentConfig(embed_dim=5, hidden_dim=4, word_dim=3)
LENGTHS = [3, 1, 7, 0, 7, 2]


def small_model(config: AlignmentConfig = SMALL) -> AlignmentModel:
    torch.manual_seed(1)
    model = AlignmentModel(config, feature_dim=6, vocabulary_size=11).double().eval()
    with torch.no_grad():  # biases of zero would hide a missing one
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def sentences(lengths: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(1, 11, (sum(lengths),), generator=generator), torch.tensor(
        lengths, dtype=torch.int64
    )


def in_loops(model: AlignmentModel, ids: Tensor) -> Tensor:
    """Eqs. 2-6 for one sentence, word by word."""

    def f(x: Tensor) -> Tensor:
        return torch.maximum(x, torch.zeros_like(x))

    W_f, W_b = model.recurrent_2HH
    b_f, b_b = model.recurrent_bias_2H
    W_e, b_e = model.input_layer.weight, model.input_layer.bias
    W_d, b_d = model.word_layer.weight, model.word_layer.bias
    e = [f(W_e @ model.word_vectors.weight[i] + b_e) for i in ids]
    h_f: list[Tensor] = []
    h_b: list[Tensor] = []
    state = torch.zeros_like(b_f)
    for t in range(len(e)):
        state = f(e[t] + state @ W_f + b_f)
        h_f.append(state)
    state = torch.zeros_like(b_b)
    for t in reversed(range(len(e))):
        state = f(e[t] + state @ W_b + b_b)
        h_b.insert(0, state)
    return torch.stack([f(W_d @ (h_f[t] + h_b[t]) + b_d) for t in range(len(e))])


def test_words_are_those_of_plain_loops() -> None:
    model = small_model()
    ids_W, lengths_C = sentences(LENGTHS)
    words_WD = model.encode_words(ids_W, lengths_C)
    expected = torch.cat([in_loops(model, ids) for ids in ids_W.split(LENGTHS) if len(ids)])
    torch.testing.assert_close(words_WD, expected)

    upstream = torch.randn_like(words_WD)
    names, parameters = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad(words_WD, parameters, upstream, allow_unused=True)
    wanted = torch.autograd.grad(expected, parameters, upstream, allow_unused=True)
    for name, a, b in zip(names, got, wanted, strict=True):
        if name.startswith("region_layer"):
            assert a is None
            assert b is None
        else:
            assert b is not None
            assert b.any(), name
            torch.testing.assert_close(a, b)


def test_a_sentence_does_not_see_the_others() -> None:
    model = small_model()
    ids_W, lengths_C = sentences(LENGTHS)
    together = model.encode_words(ids_W, lengths_C).split(LENGTHS)
    for own, ids, length in zip(together, ids_W.split(LENGTHS), lengths_C, strict=True):
        torch.testing.assert_close(own, model.encode_words(ids, length[None]))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_no_words(lengths: list[int]) -> None:
    ids_W, lengths_C = sentences(lengths)
    assert small_model().encode_words(ids_W, lengths_C).shape == (0, SMALL.embed_dim)


def test_regions_are_linear_in_standardised_features() -> None:
    model = small_model()
    features_PF = torch.randn(9, 6).half()
    mean_F, scale_F = torch.randn(6), torch.tensor([2.0, 0.5, 1.0, 0.0, 3.0, 1.0])
    model.standardise(mean_F, scale_F)
    W_m, b_m = model.region_layer.weight, model.region_layer.bias
    for region, feature in zip(model.encode_regions(features_PF), features_PF, strict=True):
        shifted = feature.double() - mean_F.double()
        scaled = torch.stack([x / s if s > 0 else x for x, s in zip(shifted, scale_F, strict=True)])
        torch.testing.assert_close(region, W_m @ scaled + b_m)
    assert {"mean_F", "scale_F"} <= model.state_dict().keys()


def test_cosine_vectors_have_length_one() -> None:
    model = small_model(AlignmentConfig(embed_dim=5, hidden_dim=4, word_dim=3, score="cosine"))
    regions_PD = model.encode_regions(torch.randn(4, 6))
    words_WD = model.encode_words(*sentences(LENGTHS))
    torch.testing.assert_close(regions_PD.norm(dim=1), torch.ones(4, dtype=torch.float64))
    lengths = words_WD.norm(dim=1)
    nothing = words_WD.abs().sum(1) == 0  # every ReLU off
    torch.testing.assert_close(lengths[~nothing], torch.ones_like(lengths[~nothing]))


def test_sentence_cosine_is_the_cosine_of_an_image_and_the_sum_of_the_words() -> None:
    config = AlignmentConfig(embed_dim=5, hidden_dim=4, word_dim=3, score="sentence_cosine")
    scaled, plain = small_model(config), small_model()
    scaled.load_state_dict(plain.state_dict())
    features_PF = torch.randn(2, 6)
    arguments = sentences(LENGTHS)
    scores_BC = image_sentence_scores(
        scaled.encode_regions(features_PF),
        torch.ones(2, dtype=torch.int64),
        scaled.encode_words(*arguments),
        arguments[1],
        score="sentence_cosine",
    )
    regions_PD = plain.encode_regions(features_PF)
    words = plain.encode_words(*arguments).split(arguments[1].tolist())
    sums_CD = torch.stack([words_TD.sum(0) for words_TD in words])
    torch.testing.assert_close(
        scores_BC, F.cosine_similarity(regions_PD[:, None], sums_CD, dim=2), check_dtype=False
    )


def test_words_alone_are_vectors_of_their_own_wherever_they_stand() -> None:
    config = AlignmentConfig(text="words", embed_dim=5, score="sentence_cosine")
    model = AlignmentModel(config, feature_dim=6, vocabulary_size=11).eval()
    assert {name for name, _ in model.named_parameters()} == {
        "region_layer.weight",
        "region_layer.bias",
        "word_vectors.weight",
    }
    ids_W, lengths_C = sentences(LENGTHS)
    words_WD = model.encode_words(ids_W, lengths_C)
    for ids, words_TD in zip(ids_W.split(LENGTHS), words_WD.split(LENGTHS), strict=True):
        if len(ids):
            own = torch.stack([model.word_vectors.weight[i] for i in ids])
            torch.testing.assert_close(words_TD, own / own.sum(0).norm())


def test_dropout_is_before_each_layer_and_only_in_training() -> None:
    model = small_model()
    seen: list[Tensor] = []
    for layer in (model.region_layer, model.input_layer, model.word_layer):
        layer.register_forward_hook(lambda _layer, inputs, _output: seen.append(inputs[0]))
    ids_W, lengths_C = sentences([40] * 10)
    model.train()(torch.rand(400, 6), ids_W, lengths_C)
    for inputs in seen:
        assert 0.3 < (inputs == 0).double().mean() < 0.9
    regions, words = model.eval()(torch.ones(4, 6), ids_W, lengths_C)
    again = model(torch.ones(4, 6), ids_W, lengths_C)
    assert torch.equal(regions, again[0])
    assert torch.equal(words, again[1])


def test_a_new_model_scores_pairs_a_few_margins_apart() -> None:
    """Too close or too far apart and the hinges of Eq. 9 say nothing, or say it too loudly."""
    torch.manual_seed(3)
    model = AlignmentModel(AlignmentConfig(), feature_dim=256, vocabulary_size=500).eval()
    lengths_C = torch.full((12,), 10)
    regions_PD = model.encode_regions(torch.randn(12 * 20, 256))
    words_WD = model.encode_words(torch.randint(1, 500, (120,)), lengths_C)
    scores_BC = image_sentence_scores(regions_PD, torch.full((12,), 20), words_WD, lengths_C)
    assert 0.1 < float((scores_BC - scores_BC.mean(0)).detach().std()) < 5


@pytest.mark.parametrize("text", ["brnn", "words"])
@pytest.mark.parametrize("score", ["sum", "sqrt_length", "cosine", "sentence_cosine"])
def test_a_few_steps_lower_the_loss(score: str, text: str) -> None:
    torch.manual_seed(4)
    config = AlignmentConfig(
        text=text,  # type: ignore[arg-type]
        embed_dim=32,
        hidden_dim=16,
        word_dim=8,
        dropout=0,
        score=score,  # type: ignore[arg-type]
        loss="softmax" if "cosine" in score else "sum_of_hinges",
    )
    model = AlignmentModel(config, feature_dim=12, vocabulary_size=30)
    num_regions_B, lengths_C = torch.randint(1, 6, (8,)), torch.randint(1, 9, (8,))
    features_PF = torch.randn(int(num_regions_B.sum()), 12)
    ids_W = torch.randint(1, 30, (int(lengths_C.sum()),))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        regions_PD, words_WD = model(features_PF, ids_W, lengths_C)
        scores_BC = image_sentence_scores(
            regions_PD, num_regions_B, words_WD, lengths_C, score=config.score
        )
        loss = ranking_loss(scores_BC, 0, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embed_dim", 0, r"AlignmentConfig\.embed_dim must be >= 1, got 0"),
        ("hidden_dim", -1, r"AlignmentConfig\.hidden_dim must be >= 1, got -1"),
        ("word_dim", 0, r"AlignmentConfig\.word_dim must be >= 1, got 0"),
        ("dropout", 1.0, r"AlignmentConfig\.dropout must be in \[0, 1\), got 1\.0"),
        ("margin", 0.0, r"AlignmentConfig\.margin must be finite and > 0, got 0\.0"),
        ("margin", float("inf"), r"AlignmentConfig\.margin must be finite and > 0, got inf"),
        ("distillation", float("inf"), "distillation must be finite and >= 0, got inf"),
        ("temperature", -1.0, r"AlignmentConfig\.temperature must be finite and > 0, got -1\.0"),
        ("score", "mean", r"AlignmentConfig\.score must be one of sum, .*, got 'mean'"),
        ("loss", "hinge", r"AlignmentConfig\.loss must be one of .*softmax, got 'hinge'"),
    ],
)
def test_settings_that_cannot_work_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignmentConfig(**{field: value})  # type: ignore[arg-type]


def test_autocast_stays_near() -> None:
    """A whole loss in bfloat16, and gradients in the weights' own type."""
    torch.manual_seed(5)
    # Were all hinges active, as at a margin of 1, the gradients of biases would add up to 0.
    config = AlignmentConfig(embed_dim=32, hidden_dim=16, word_dim=8, dropout=0, margin=0.1)
    model = AlignmentModel(config, feature_dim=12, vocabulary_size=30)
    features_PF, (ids_W, lengths_C) = torch.randn(12, 12), sentences([3, 1, 7, 5])

    def loss() -> Tensor:
        regions_PD, words_WD = model(features_PF, ids_W, lengths_C)
        scores_BC = image_sentence_scores(regions_PD, torch.full((4,), 3), words_WD, lengths_C)
        assert scores_BC.dtype == torch.float32
        return ranking_loss(scores_BC, 0, config)

    exact = torch.autograd.grad(loss(), list(model.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough_loss = loss()
    rough = torch.autograd.grad(rough_loss, list(model.parameters()))
    for got, wanted in zip(rough, exact, strict=True):
        assert got.dtype == torch.float32
        assert torch.cosine_similarity(got.flatten(), wanted.flatten(), dim=0) > 0.97
