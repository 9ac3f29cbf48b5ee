"""The multimodal RNN: from the feature of an image or region to probabilities of the next word.

    b_v = W_hi CNN(I)                                               (13)
    h_t = f(W_hx x_t + W_hh h_{t-1} + b_h + 1[t = 1] b_v)           (14)
    y_t = softmax(W_oh h_t + b_o)                                   (15)

with f = ReLU, h_0 = 0, x_1 the vector of START, and END the last word to predict. START and END
share id 0: one is only an input and the other only an output.

With `cell="lstm"` the right-hand side of (14) computes the four gates instead, so the image still
enters once, at the first step, and everything else is the same. G below is its width: H or 4 H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsa_ray.dropout import Dropout
from vsa_ray.standardised import Standardised
from vsa_ray.vocabulary import END

Cell = Literal["rnn", "lstm"]
State = tuple[Tensor, ...]
"""Recurrent state: (h,) for the RNN, (h, c) for the LSTM; (N, H) each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionerConfig:
    """Size and kind of the caption model.

    The paper also mentions that passing b_v and W_hx x_t through f can help; this is not
    implemented, because the LSTM helps more and has no place for it.
    """

    cell: Cell = "rnn"
    """The recurrent cell: the paper's "rnn", or "lstm", which has four times as many recurrent
    weights. On Flickr8k their captions are about equally good."""

    hidden_dim: int = 512
    """Dimension of the recurrent state."""

    word_dim: int = 256
    """Dimension of the word vectors at the input; they are learned from scratch, which the paper
    found to be no worse than pretrained vectors."""

    dropout: float = 0.5
    """Dropout probability of the inputs (features, word vectors) and outputs of the recurrence.
    More dropout reduces overfitting."""

    def __post_init__(self) -> None:
        if self.cell not in get_args(Cell):
            raise ValueError(f"CaptionerConfig.cell must be 'rnn' or 'lstm', got {self.cell!r}")
        for name in ("hidden_dim", "word_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"CaptionerConfig.{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"CaptionerConfig.dropout must be in [0, 1), got {self.dropout}")


class MultimodalRNN(Standardised):
    """Eqs. 13-15, or the same around an LSTM.

    Args:
        feature_dim: width F of the CNN feature.
        vocabulary_size: V, number of word ids; `len(Vocabulary)`.
        log_frequencies_V: initial softmax bias (`Vocabulary.log_frequencies()`), so that training
            does not spend its first epoch learning how common each word is. None if a checkpoint is
            about to be loaded.
    """

    def __init__(
        self,
        config: CaptionerConfig,
        *,
        feature_dim: int,
        vocabulary_size: int,
        log_frequencies_V: Tensor | None,
    ) -> None:
        super().__init__(feature_dim)
        if vocabulary_size < 2:
            raise ValueError(
                f"vocabulary_size must be >= 2 (END and a word), got {vocabulary_size}"
            )
        self.config = config
        state_dim = config.hidden_dim
        inputs_dim = 4 * state_dim if config.cell == "lstm" else state_dim  # G
        self.words = nn.Embedding(vocabulary_size, config.word_dim)  # x
        self.image_input = nn.Linear(feature_dim, inputs_dim, bias=False)  # W_hi
        self.word_input = nn.Linear(config.word_dim, inputs_dim)  # W_hx, b_h
        self.recurrence = nn.Linear(state_dim, inputs_dim, bias=False)  # W_hh
        self.output = nn.Linear(state_dim, vocabulary_size)  # W_oh, b_o
        self.drop = Dropout(config.dropout)
        self._initialise(log_frequencies_V)

    @torch.no_grad()
    def _initialise(self, log_frequencies_V: Tensor | None) -> None:
        # Uniform, with a bound that depends on the fan-in. For the RNN at the paper's width of 512
        # it is about the paper's U[-.1, .1]; other widths keep signals of the same size.
        is_rnn = self.config.cell == "rnn"
        for layer in (self.image_input, self.word_input):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu" if is_rnn else "linear")
        if is_rnn:
            # Le, Jaitly & Hinton (2015): carries the image, seen once, to the last word. On
            # Flickr8k's dev split CIDEr, with greedy search, is 36; random weights gave 30.
            nn.init.eye_(self.recurrence.weight)
        else:
            nn.init.kaiming_uniform_(self.recurrence.weight, nonlinearity="linear")
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        nn.init.uniform_(self.output.weight, -0.01, 0.01)  # the bias decides the first predictions
        self.word_input.bias.zero_()
        if not is_rnn:
            self.word_input.bias[: self.config.hidden_dim] = 1.0  # forget gates start open
        if log_frequencies_V is None:
            self.output.bias.zero_()
        else:
            self.output.bias.copy_(log_frequencies_V)

    def forward(self, features_BF: Tensor, ids_W: Tensor, lengths_B: Tensor) -> Tensor:
        """Negative log-likelihood of each sentence given its image -> losses_B, including END.

        One number per sentence, so that training on several workers can divide by the total number
        of tokens.

        Args:
            features_BF: one feature per sentence; an image with five sentences occurs five times.
            ids_W: concatenated word ids of all sentences, without START and END.
            lengths_B: number of words of each sentence; 0 means only END.

        Raises:
            ValueError: the three do not fit together.
        """
        _check_batch(features_BF, ids_W, lengths_B)
        tokens = _pack(ids_W, lengths_B)
        first_B = tokens.sentences_N[: len(lengths_B)]  # the first step has every sentence once
        inputs = list(self.word_inputs(tokens.inputs_N).split(tokens.sizes))
        inputs[0] = inputs[0] + self.image_inputs(features_BF[first_B])
        state, hidden = None, []
        for inputs_NG in inputs:
            if state is not None:
                state = tuple(part_NH[: len(inputs_NG)] for part_NH in state)
            state = self.step(inputs_NG, state)
            hidden.append(state[0])
        logits_NV = self.output(self.drop(torch.cat(hidden)))
        losses_N = F.cross_entropy(logits_NV, tokens.targets_N, reduction="none")
        return losses_N.new_zeros(len(lengths_B)).index_add(0, tokens.sentences_N, losses_N)

    def image_inputs(self, features_BF: Tensor) -> Tensor:
        """b_v of Eq. 13 -> (B, G)."""
        x_BF = self.standardised(features_BF)
        inputs_BG: Tensor = self.image_input(self.drop(x_BF))
        return inputs_BG

    def word_inputs(self, ids_N: Tensor) -> Tensor:
        """W_hx x + b_h of Eq. 14 -> (N, G)."""
        inputs_NG: Tensor = self.word_input(self.drop(self.words(ids_N)))
        return inputs_NG

    def step(self, inputs_NG: Tensor, state: State | None) -> State:
        """Eq. 14, or an LSTM's step; `state` None means h_0 = 0.

        `inputs_NG` is the non-recurrent part: W_hx x_t + b_h, plus b_v at t = 1.
        """
        if state is not None:
            inputs_NG = torch.addmm(inputs_NG, state[0], self.recurrence.weight.t())
        if self.config.cell == "rnn":
            return (inputs_NG.relu(),)
        forget_NH, write_NH, read_NH, new_NH = inputs_NG.chunk(4, dim=1)
        cell_NH = write_NH.sigmoid() * new_NH.tanh()
        if state is not None:
            cell_NH = cell_NH + forget_NH.sigmoid() * state[1]
        return read_NH.sigmoid() * cell_NH.tanh(), cell_NH


class _Tokens(NamedTuple):
    """The N tokens of a batch, including ENDs: all first ones, all second ones, and so on.

    Sentences come longest first, so those with a token at a step are the first ones of the step
    before, and nothing is computed for padding.
    """

    inputs_N: Tensor  # the previous word: START, or a word
    targets_N: Tensor  # the word to predict: a word, or END
    sentences_N: Tensor  # index of the sentence
    sizes: list[int]  # number of tokens of each step


def _pack(ids_W: Tensor, lengths_B: Tensor) -> _Tokens:
    order_B = lengths_B.argsort(descending=True, stable=True)
    steps_T = torch.arange(int(lengths_B.max()) + 1, device=ids_W.device)
    words_BT = ids_W.new_full((len(lengths_B), len(steps_T)), END)
    words_BT[steps_T < lengths_B[:, None]] = ids_W
    targets_TB = words_BT[order_B].t()
    inputs_TB = torch.cat([torch.full_like(targets_TB[:1], END), targets_TB[:-1]])
    real_TB = steps_T[:, None] <= lengths_B[order_B]
    return _Tokens(
        inputs_N=inputs_TB[real_TB],
        targets_N=targets_TB[real_TB],
        sentences_N=order_B.expand_as(real_TB)[real_TB],
        sizes=real_TB.sum(dim=1).tolist(),
    )


def _check_batch(features_BF: Tensor, ids_W: Tensor, lengths_B: Tensor) -> None:
    if len(lengths_B) == 0:
        raise ValueError("a batch needs at least one sentence, got none")
    if len(features_BF) != len(lengths_B):
        raise ValueError(
            f"each sentence needs a feature: got {len(features_BF)} features "
            f"for {len(lengths_B)} sentences"
        )
    if int(lengths_B.sum()) != len(ids_W):
        raise ValueError(
            f"lengths_B adds up to {int(lengths_B.sum())}, ids_W has {len(ids_W)} words"
        )
