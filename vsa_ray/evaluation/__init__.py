"""Models against the sentences and boxes of people: what `metrics` needs, made from tables.

    ranking.py    images and sentences that are to find one another
    phrases.py    phrases that are to find their box
    captions.py   sentences written for images
    boxes.py      what is written for the boxes that people drew

The same code scores the dev split after every epoch of training and the test split at the end.
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
