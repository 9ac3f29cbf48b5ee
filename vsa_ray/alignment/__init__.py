"""Alignment: embed regions and words in one space, score image-sentence pairs, train by ranking.

model.py    Eqs. 1-6: features -> regions_PD, word ids -> words_WD
            (recurrence.py: the bidirectional recurrence)
scores.py   Eq. 8: regions, words -> scores_BC
losses.py   Eq. 9 and two other ranking losses, exact on any number of workers
distillation.py  knowledge distillation from the detector
labels.py   which words go with which detector classes
config.py   all options
"""

from vsa_ray.alignment.config import AlignmentConfig
from vsa_ray.alignment.distillation import Detected, distillation_loss
from vsa_ray.alignment.labels import LabelWords, label_words
from vsa_ray.alignment.losses import Gather, alone, ranking_loss
from vsa_ray.alignment.model import AlignmentModel
from vsa_ray.alignment.scores import MAX_REGIONS, Score, image_sentence_scores

__all__ = [
    "MAX_REGIONS",
    "AlignmentConfig",
    "AlignmentModel",
    "Detected",
    "Gather",
    "LabelWords",
    "Score",
    "alone",
    "distillation_loss",
    "image_sentence_scores",
    "label_words",
    "ranking_loss",
]
