"""Distil what the detector knows about its boxes into the model: word-to-region, no human boxes.

The ranking loss says which sentence belongs to an image, but not which of its words belong to which
region: part of the right object, or something that always appears next to it, does as well. A
detector knows the confidence, size and class of each box, and which class a word means can be
learned from the images whose sentences contain it (labels.py). So for each run of words the target
combines the model's own scores with the detector's knowledge: knowledge distillation, for grounding
after Wang et al., "Improving Weakly Supervised Visual Grounding by Contrastive Knowledge
Distillation" (CVPR 2021).

    z_i  = v_i . sum_t s_t                               over the words t of the run
    q    = softmax_i(SHARPNESS * (z_i / UNIT + sum_t (prior_i + evidence_t,class(i))))   held fixed
    loss = mean over runs of -sum_i q_i log softmax_i(z_i / TEMPERATURE)

A run is a word and its neighbours, since people describe a thing in a few words; vectors of words
like "the" can stay short and then have no influence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

UNIT = 0.05
"""Standard deviation of v_i . s_t in a trained model with score "sentence_cosine"."""

TEMPERATURE = 0.02

SHARPNESS = 1.5

CONFIDENCE, AREA, EVIDENCE = 0.7, 0.1, 0.5
"""Weights, in UNITs, of a box's log confidence, its log relative area, and the evidence of its
class for a word. About the best for grounding by the sum of v_i . s_t and these."""

NEVER = -1e6
"""Score that rules a region out: the whole image next to boxes (a detector says nothing about it),
and padding. Finite, because 0 times infinity would be NaN."""


@dataclass(frozen=True, slots=True)
class Detected:
    """What the detector knows about the regions of some images, each with one sentence."""

    prior_P: Tensor
    """float32: score of a region that does not depend on the word."""

    class_P: Tensor
    """int64: the region's column of evidence_WL."""

    evidence_WL: Tensor
    """float32: LabelWords.evidence_VL for each word of the sentences."""

    def to(self, device: torch.device | str) -> Detected:
        return Detected(
            self.prior_P.to(device), self.class_P.to(device), self.evidence_WL.to(device)
        )


def prior(log_confidence_P: Tensor, log_area_P: Tensor, num_regions_B: Tensor) -> Tensor:
    """The word-independent score of each region -> prior_P.

    Args:
        log_confidence_P: log of the detector's confidence.
        log_area_P: log of the region's share of the image.
        num_regions_B: regions of each image; the first is the whole image.
    """
    prior_P = CONFIDENCE * log_confidence_P + AREA * log_area_P
    first_B = num_regions_B.cumsum(0) - num_regions_B
    prior_P[first_B[num_regions_B > 1]] = NEVER
    return prior_P


def distillation_loss(
    regions_PD: Tensor,
    num_regions_B: Tensor,
    words_WD: Tensor,
    lengths_B: Tensor,
    detected: Detected,
) -> Tensor:
    """The loss summed over all runs of true pairs; there is one run per word.

    Args:
        regions_PD: the regions of all images, concatenated; num_regions_B per image.
        words_WD: the words of the images' own sentences, concatenated; lengths_B per sentence.
        detected: for the same regions and words.
    """
    if not len(lengths_B):  # a worker without images
        return words_WD.sum()
    wide = torch.promote_types(regions_PD.dtype, torch.float32)
    with torch.autocast(regions_PD.device.type, enabled=False):
        regions_BRD = _padded(regions_PD.to(wide), num_regions_B)
        z_BTR = _runs(_padded(words_WD.to(wide), lengths_B) @ regions_BRD.mT)
        prior_BR = _padded(detected.prior_P, num_regions_B, NEVER)
        z_BTR = z_BTR.masked_fill((prior_BR == NEVER)[:, None], NEVER)
        is_word_BT = _padded(torch.ones_like(detected.evidence_WL[:, 0]), lengths_B)
        with torch.no_grad():
            class_BTR = _padded(detected.class_P, num_regions_B)[:, None].expand_as(z_BTR)
            known_BTR = EVIDENCE * _padded(detected.evidence_WL, lengths_B).gather(2, class_BTR)
            known_BTR = _runs(known_BTR + is_word_BT[..., None] * prior_BR[:, None])
            q_BTR = (SHARPNESS * (z_BTR / UNIT + known_BTR)).softmax(2)
        losses_BT = -(q_BTR * (z_BTR / TEMPERATURE).log_softmax(2)).sum(2)
        return (losses_BT * is_word_BT).sum()


def _padded(rows: Tensor, lengths_B: Tensor, value: float = 0.0) -> Tensor:
    """Pad ragged rows to (B, L, ...), where L is the greatest length.

    By a gather, since the gradient of torch's pad_sequence copies the whole tensor per sequence.
    """
    position_L = torch.arange(int(lengths_B.max()), device=rows.device)
    row_BL = (lengths_B.cumsum(0) - lengths_B)[:, None] + position_L
    there_BL = position_L < lengths_B[:, None]
    found = rows.index_select(0, row_BL.clamp(max=len(rows) - 1).flatten())
    found = found.view(*row_BL.shape, *rows.shape[1:])
    return found.masked_fill(~there_BL.view(*row_BL.shape, *[1] * (rows.ndim - 1)), value)


def _runs(words_BTR: Tensor) -> Tensor:
    """The sum of each word's scores and its neighbours'."""
    padded = F.pad(words_BTR, (0, 0, 1, 1))
    return padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
