"""Metrics in the units used by the papers: numpy in, numbers out.

    retrieval.py   a matrix of scores ─▶ recall at 1, 5, 10 and median rank, and chance
    captions.py    sentences and references ─▶ BLEU, ROUGE-L, CIDEr, METEOR; a baseline
    grounding.py   regions chosen for phrases ─▶ accuracy against human boxes, and baselines
    java.py        the two Java programs behind the published caption scores

The results are dataclasses of plain numbers: `dataclasses.asdict` is what metrics.json holds.
"""

from vsa_ray.metrics.captions import (
    CaptionScores,
    cider,
    nearest_neighbour_captions,
    score_captions,
)
from vsa_ray.metrics.grounding import (
    Grounding,
    choose_by_assignment,
    choose_by_score,
    iou,
    score_grounding,
)
from vsa_ray.metrics.retrieval import (
    Recall,
    chance_annotation,
    chance_search,
    image_annotation,
    image_search,
)

__all__ = [
    "CaptionScores",
    "Grounding",
    "Recall",
    "chance_annotation",
    "chance_search",
    "choose_by_assignment",
    "choose_by_score",
    "cider",
    "image_annotation",
    "image_search",
    "iou",
    "nearest_neighbour_captions",
    "score_captions",
    "score_grounding",
]
