"""Embed regions and words in one space: Eq. 1, and the bidirectional network of Eqs. 2-6.

Instead of the network, words can have one vector each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsa_ray.alignment.config import AlignmentConfig
from vsa_ray.alignment.recurrence import bidirectional
from vsa_ray.dropout import Dropout
from vsa_ray.standardised import Standardised

WORDS = 12
"""Mean number of words of a sentence."""


class AlignmentModel(Standardised):
    """Embeds the regions of images and the words of sentences in a common space of D dimensions.

    Args:
        config: sizes, dropout, and whether vectors are normalised.
        feature_dim: width F of a region's feature.
        vocabulary_size: number of word ids, `len(vocabulary)`.
    """

    def __init__(self, config: AlignmentConfig, *, feature_dim: int, vocabulary_size: int) -> None:
        super().__init__(feature_dim)
        self.config = config
        self.dropout = Dropout(config.dropout)
        self.region_layer = nn.Linear(feature_dim, config.embed_dim)
        alone = config.text == "words"
        self.word_vectors = nn.Embedding(
            vocabulary_size, config.embed_dim if alone else config.word_dim
        )
        if not alone:
            self.input_layer = nn.Linear(config.word_dim, config.hidden_dim)
            self.recurrent_2HH = nn.Parameter(torch.empty(2, config.hidden_dim, config.hidden_dim))
            self.recurrent_bias_2H = nn.Parameter(torch.zeros(2, config.hidden_dim))
            self.word_layer = nn.Linear(config.hidden_dim, config.embed_dim)
        self._initialise()

    def _initialise(self) -> None:
        """Start with v and s on the same scale, so that both sides get gradients of similar size.

        With elements of about D ** -0.25, products v . s are about 1. Where raw products are
        summed, the sum should be about 1, like the margin: from hinges much larger than it,
        training jumps to a point where all scores are equal.
        """
        words = WORDS if self.config.score == "sum" else 1
        scale = self.config.embed_dim**-0.25 * words**-0.5
        nn.init.normal_(self.region_layer.weight, std=scale * self.region_layer.in_features**-0.5)
        nn.init.zeros_(self.region_layer.bias)
        if self.config.text == "words":
            # Shorter: Adam's steps have a fixed size, which would hardly turn a long vector.
            nn.init.normal_(self.word_vectors.weight, std=self.config.embed_dim**-0.5)
        else:
            self._initialise_network(scale)

    def _initialise_network(self, scale: float) -> None:
        """Start with a recurrence of 0: a word at first ignores its context, then learns to use it.

        On Flickr8k's dev split, with the paper's score and loss, R@10 after 9 epochs is 34/28 from
        an orthogonal recurrence, 39/33 from half of one, and 43/35 from 0, at half the rate.
        """
        nn.init.kaiming_normal_(self.input_layer.weight, nonlinearity="relu")
        nn.init.zeros_(self.recurrent_2HH)
        nn.init.kaiming_normal_(self.word_layer.weight, nonlinearity="relu")
        with torch.no_grad():
            self.word_layer.weight *= scale / 2  # at first both directions see the same word
        nn.init.zeros_(self.input_layer.bias)
        nn.init.zeros_(self.word_layer.bias)

    def forward(
        self, features_PF: Tensor, ids_W: Tensor, lengths_C: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Regions (P, D) of all images and words (W, D) of all sentences, each concatenated."""
        return self.encode_regions(features_PF), self.encode_words(ids_W, lengths_C)

    def encode_regions(self, features_PF: Tensor) -> Tensor:
        """Eq. 1, a linear layer: features of any float type -> regions_PD."""
        x_PF = self.standardised(features_PF)
        regions_PD: Tensor = self.region_layer(self.dropout(x_PF))
        of_length_1 = self.config.score in ("cosine", "sentence_cosine")
        return F.normalize(regions_PD, dim=-1) if of_length_1 else regions_PD

    def encode_words(self, ids_W: Tensor, lengths_C: Tensor) -> Tensor:
        """Concatenated word ids of all sentences, and the sentences' lengths -> words_WD.

        Eqs. 2-6, or each word's own vector.
        """
        words_WD: Tensor = self.dropout(self.word_vectors(ids_W))
        if self.config.text == "brnn":
            e_WH = self.input_layer(words_WD).relu()
            h_WH = bidirectional(e_WH, lengths_C, self.recurrent_2HH, self.recurrent_bias_2H)
            words_WD = self.word_layer(self.dropout(h_WH)).relu()
        match self.config.score:
            case "cosine":
                return F.normalize(words_WD, dim=-1)
            case "sentence_cosine":
                return _with_sums_of_length_1(words_WD, lengths_C)
        return words_WD


def _with_sums_of_length_1(words_WD: Tensor, lengths_C: Tensor) -> Tensor:
    """Scale the words of each sentence by one factor, so that their sum has length 1."""
    sentence_W = torch.arange(len(lengths_C), device=lengths_C.device)
    sentence_W = sentence_W.repeat_interleave(lengths_C)
    sums_CD = words_WD.new_zeros(len(lengths_C), words_WD.shape[1])
    sums_CD = sums_CD.index_add(0, sentence_W, words_WD)
    scale_C = 1 / sums_CD.norm(dim=1).clamp(min=1e-6)
    scaled_WD: Tensor = words_WD * scale_C[sentence_W, None]
    return scaled_WD
