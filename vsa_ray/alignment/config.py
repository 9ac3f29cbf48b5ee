"""What an alignment model is made of, and what it is trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vsa_ray.alignment.scores import Score
from vsa_ray.batches import Seen

Loss = Literal["sum_of_hinges", "hardest_negative", "softmax"]
Text = Literal["brnn", "words"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentConfig:
    """Sizes of the alignment model, its score and its loss."""

    regions: Seen = "all"
    """What the model sees of an image: "all" its regions (the paper), its "boxes" alone, or the
    "whole_image" alone. Of an image without a box it always sees the whole."""

    text: Text = "brnn"
    """What a word's vector knows: the sentence around it ("brnn", the paper), or its word alone
    ("words": one vector of `embed_dim` for each, `hidden_dim` and `word_dim` are not used)."""

    embed_dim: int = 1000
    """Size of the space that regions and words share."""

    hidden_dim: int = 512
    """Hidden units of the recurrent network, in each direction."""

    word_dim: int = 300
    """Size of a word vector."""

    dropout: float = 0.5
    """Share of inputs dropped before every layer but the recurrent ones, in training."""

    score: Score = "sum"
    """A sentence's score from its words' best products: their "sum" (the paper), that divided by
    the square root of the sentence's length ("sqrt_length"), or the mean over its words where
    regions and words have length 1 ("cosine"). In "sentence_cosine" regions have length 1, and so
    has the sum of a sentence's words: those that say little may be short."""

    loss: Loss = "sum_of_hinges"
    """Over all false pairs of the global batch (the paper), over the hardest one of each image and
    sentence, or the log-probability of the true one ("softmax")."""

    detections: bool = False
    """Whether the model sees, beside a region's feature, where its box is, how large, and how sure
    the detector is of it: what a crop does not show."""

    distillation: float = 0.0
    """How much the model also learns what the detector knows of its boxes, to align words with
    regions as it would (distillation.py). For scores that are cosines."""

    margin: float = 1.0
    """How much a true pair must beat a false one before a hinge is zero."""

    temperature: float = 0.05
    """What scores are divided by before the softmax; right for cosines, far too low for "sum"."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "hidden_dim", "word_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"AlignmentConfig.{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"AlignmentConfig.dropout must be in [0, 1), got {self.dropout}")
        kinds = {"regions": Seen, "text": Text, "score": Score, "loss": Loss}
        for name, kind in kinds.items():
            choices = get_args(kind)
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"AlignmentConfig.{name} must be one of {', '.join(choices)}, "
                    f"got {getattr(self, name)!r}"
                )
        if not self.distillation >= 0:
            raise ValueError(f"AlignmentConfig.distillation must be >= 0, got {self.distillation}")
        if self.distillation and self.score not in ("cosine", "sentence_cosine"):
            raise ValueError(
                "AlignmentConfig.distillation needs score cosine or sentence_cosine, got "
                f"{self.score!r}"
            )
        for name in ("margin", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"AlignmentConfig.{name} must be > 0, got {getattr(self, name)}")
