"""The settings of the alignment model and its losses."""

from __future__ import annotations

import math
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
    """Which regions of an image the model sees: "all" (the paper), only the detected "boxes", or
    only the "whole_image", which suits search but finds no boxes. An image in which nothing was
    detected is always seen as a whole."""

    text: Text = "brnn"
    """How words become vectors: by a recurrent network that reads the whole sentence in both
    directions ("brnn", the paper), or by a table with one vector for each word ("words": faster,
    and better on Flickr8k; hidden_dim and word_dim are not used)."""

    embed_dim: int = 1000
    """Dimension of the space in which regions and words are compared."""

    hidden_dim: int = 512
    """Hidden units of the recurrent network (text "brnn"), in each direction."""

    word_dim: int = 300
    """Dimension of the word vectors at the input of the recurrent network (text "brnn")."""

    dropout: float = 0.5
    """Dropout probability of the inputs of each layer except the recurrent ones. More dropout
    reduces overfitting; with score "sum" it cost recall."""

    score: Score = "sum"
    """How an image and a sentence are scored. Each word takes its best product v_i . s_t with a
    region of the image. "sum" adds these up (the paper). "sqrt_length" divides that sum by the
    square root of the number of words. "cosine" normalises all vectors to length 1 and takes the
    mean over the words. "sentence_cosine" normalises each region vector, and each sentence's sum of
    word vectors, to length 1, so uninformative words can have short vectors."""

    loss: Loss = "sum_of_hinges"
    """What training minimises over a global batch. "sum_of_hinges": every false pair of an image
    and a sentence must score below the true one by the margin (the paper). "hardest_negative": only
    the highest-scoring false pair of each image and of each sentence counts. "softmax":
    cross-entropy of the true pair among all pairs; works best with cosine scores."""

    detections: bool = False
    """Append six numbers to each region's feature: the box's corners as fractions of the image
    size, the log of its relative area, and the log of the detector's confidence."""

    distillation: float = 0.0
    """Weight of a second loss that teaches words to choose the regions favoured by the detector's
    classes, confidences and box sizes (alignment/distillation.py); it improves grounding. 0 turns
    it off. Needs score "cosine" or "sentence_cosine" and a detector with classes."""

    margin: float = 1.0
    """Margin by which a true pair must outscore a false one before their loss is 0, in units of the
    score. Not used by "softmax"."""

    temperature: float = 0.05
    """Scores are divided by this before the softmax; used only by loss "softmax". The default suits
    cosine scores; for score "sum" use about 1."""

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
        if not 0 <= self.distillation < math.inf:
            raise ValueError(
                f"AlignmentConfig.distillation must be finite and >= 0, got {self.distillation}"
            )
        if self.distillation and self.score not in ("cosine", "sentence_cosine"):
            raise ValueError(
                "AlignmentConfig.distillation needs score cosine or sentence_cosine, got "
                f"{self.score!r}"
            )
        for name in ("margin", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"AlignmentConfig.{name} must be finite and > 0, got {getattr(self, name)}"
                )
