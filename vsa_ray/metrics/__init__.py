"""What the models are worth, in the units of the papers: numpy in, numbers out.

    retrieval.py   a matrix of scores ─▶ recall at 1, 5, 10 and median rank, beside chance
    captions.py    sentences and references ─▶ BLEU, ROUGE-L, CIDEr, METEOR; a baseline
    grounding.py   regions chosen for phrases ─▶ accuracy against people's boxes, beside baselines
    java.py        the two Java programs that the published caption scores come from

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
