"""Score captions against human sentences with pycocoevalcap: BLEU, ROUGE-L, CIDEr, METEOR.

Published scores use the Penn Treebank tokeniser and include METEOR; both are Java programs. Without
a working Java, sentences are tokenised by `vocabulary.tokenise`, METEOR is omitted, and the result
says so: such scores differ slightly from published ones.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from vsa_ray.metrics import java
from vsa_ray.vocabulary import tokenise

logger = logging.getLogger(__name__)

_BLOCK_DISTANCES = 1 << 24
"""Distances in memory at once: 64 MiB."""


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Corpus-level scores, times 100 as in the papers' tables."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    rouge_l: float
    cider: float
    """Its weights come from this corpus's references, so it is 0 for a single image."""

    meteor: float | None
    """None without a working Java."""

    tokenizer: Literal["ptb", "vsa_ray"]
    """"ptb" is the published protocol."""


def score_captions(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> CaptionScores:
    """Score one caption per image against the image's reference sentences.

    Args:
        hypotheses: image id -> caption; an empty caption scores 0 and counts.
        references: image id -> one or more sentences, for the same images.

    Raises:
        ValueError: no images, different images, or an image without a reference.
    """
    _check_captions(hypotheses, references)
    images = sorted(hypotheses)
    texts = [[hypotheses[image], *references[image]] for image in images]
    tokenised, tokenizer = _tokenise(texts)
    found = {image: own[:1] for image, own in zip(images, tokenised, strict=True)}
    true = {image: own[1:] for image, own in zip(images, tokenised, strict=True)}

    bleu, _ = Bleu(4).compute_score(true, found, verbose=0)
    rouge_l, _ = Rouge().compute_score(true, found)
    cider, _ = Cider().compute_score(true, found)
    bleu1, bleu2, bleu3, bleu4 = (100.0 * float(score) for score in bleu)
    return CaptionScores(
        bleu1=bleu1,
        bleu2=bleu2,
        bleu3=bleu3,
        bleu4=bleu4,
        rouge_l=100.0 * float(rouge_l),
        cider=100.0 * float(cider),
        meteor=_meteor(tokenised) if tokenizer == "ptb" else None,
        tokenizer=tokenizer,
    )


def cider(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """CIDEr, times 100, of one tokenised caption per image, without Java: 1 s for 1,000 images.

    Raises:
        ValueError: no images, or different numbers of captions and references.
    """
    if not hypotheses:
        raise ValueError("there are no captions to score")
    true, found = {}, {}
    for image, (words, own) in enumerate(zip(hypotheses, references, strict=True)):
        found[image] = [" ".join(words)]
        true[image] = [" ".join(reference) for reference in own]
    score, _ = Cider().compute_score(true, found)
    return 100.0 * float(score)


def _check_captions(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not hypotheses:
        raise ValueError("there are no captions to score")
    if odd := hypotheses.keys() ^ references.keys():
        image = min(odd)
        lacks = "reference" if image in hypotheses else "caption"
        raise ValueError(f"{len(odd)} images differ: image {image!r} has no {lacks}")
    if bare := [image for image, sentences in references.items() if not sentences]:
        raise ValueError(f"{len(bare)} images have no reference sentence: image {min(bare)!r}")


def _tokenise(texts: list[list[str]]) -> tuple[list[list[str]], Literal["ptb", "vsa_ray"]]:
    """Tokenise sentences, with tokens separated by spaces, keeping their groups."""
    try:
        flat = iter(java.ptb_tokenise([text for own in texts for text in own]))
    except java.JavaError as error:
        logger.warning("%s. Using our own tokeniser, without METEOR; is Java installed?", error)
        return [[" ".join(tokenise(text)) for text in own] for own in texts], "vsa_ray"
    return [[next(flat) for _ in own] for own in texts], "ptb"


def _meteor(tokenised: list[list[str]]) -> float | None:
    try:
        return 100.0 * java.meteor([own[0] for own in tokenised], [own[1:] for own in tokenised])
    except java.JavaError as error:
        logger.warning("%s. METEOR is omitted.", error)
        return None


def nearest_neighbour_captions(
    test_features_BF: npt.NDArray[np.floating[Any]],
    train_features_NF: npt.NDArray[np.floating[Any]],
    train_captions: Sequence[Sequence[str]],
) -> list[str]:
    """A baseline that generates nothing: the first sentence of the nearest training image.

    Nearest by Euclidean distance of the whole-image features, as in the paper's Table 2. Memory:
    both matrices in float32, and 64 MiB of distances.

    Raises:
        ValueError: features of different widths, or a training image without a sentence.
    """
    if test_features_BF.shape[1] != train_features_NF.shape[1]:
        raise ValueError(
            f"test features are {test_features_BF.shape[1]} wide, training features "
            f"{train_features_NF.shape[1]}; both must come from the same backbone"
        )
    sentences = [captions[0] for captions in train_captions if captions]
    if not len(train_features_NF) == len(train_captions) == len(sentences) > 0:
        raise ValueError(
            f"{len(train_features_NF)} training images need a sentence each, "
            f"got {len(sentences)} with sentences of {len(train_captions)}"
        )
    test_BF = test_features_BF.astype(np.float32, copy=False)
    train_NF = train_features_NF.astype(np.float32, copy=False)
    square_N = np.einsum("nf,nf->n", train_NF, train_NF)
    step = max(1, _BLOCK_DISTANCES // len(train_NF))
    nearest: list[int] = []
    for start in range(0, len(test_BF), step):
        distance_BN = test_BF[start : start + step] @ train_NF.T
        distance_BN *= -2
        distance_BN += square_N  # |a - b|^2 without |a|^2, which is the same for all b
        nearest += distance_BN.argmin(axis=1).tolist()
    return [sentences[n] for n in nearest]
