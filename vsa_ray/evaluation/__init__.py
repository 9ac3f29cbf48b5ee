"""Evaluate models against human sentences and boxes: from tables to the inputs of `metrics`.

    ranking.py    retrieval: images and sentences rank each other
    phrases.py    grounding: phrases choose a box
    captions.py   captions of whole images
    boxes.py      captions of human-drawn boxes

The same code scores the dev split after each epoch of training and the test split at the end.
"""

from vsa_ray.evaluation.boxes import (
    nearest_snippets,
    region_captioning,
    region_references,
)
from vsa_ray.evaluation.captions import captioning
from vsa_ray.evaluation.phrases import Hints, PhraseScores, choose, grounding, phrase_scores
from vsa_ray.evaluation.ranking import (
    Pairs,
    pairs,
    retrieval,
    retrieval_by,
    retrieval_scores,
    text_scores,
)

__all__ = [
    "Hints",
    "Pairs",
    "PhraseScores",
    "captioning",
    "choose",
    "grounding",
    "nearest_snippets",
    "pairs",
    "phrase_scores",
    "region_captioning",
    "region_references",
    "retrieval",
    "retrieval_by",
    "retrieval_scores",
    "text_scores",
]
