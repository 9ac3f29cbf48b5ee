"""What a detector knows of its boxes, taught to the model: words to regions, without human boxes.

The ranking loss says which sentence belongs to an image, and leaves open which of its words belong
to which region: a part of the right thing, or what always stands beside it, serves as well. A
detector knows how sure it is of a box, how large it is, and its class; and which class a word means
can be learned from the images that it is said of (labels.py). So, for each run of words,
the model is to agree with what it thinks itself and the detector knows, together: knowledge
distillation, for grounding after Wang et al., "Improving Weakly Supervised Visual Grounding by
Contrastive Knowledge Distillation" (CVPR 2021).

    z_i  = v_i . sum_t s_t                               over the words t of the run
    q    = softmax_i(SHARPNESS * (z_i / UNIT + sum_t (prior_i + evidence_t,class(i))))   held fixed
    loss = mean over runs of -sum_i q_i log softmax_i(z_i / TEMPERATURE)

A run is a word and its neighbours, since people say a few words of a thing: words like "the" may
stay short, and decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

UNIT = 0.05
"""The deviation of v_i . s_t in a trained model whose sentences are cosines."""

TEMPERATURE = 0.02

SHARPNESS = 1.5

CONFIDENCE, AREA, EVIDENCE = 0.7, 0.1, 0.5
"""What the log of a box's confidence, that of its share of the image, and the evidence of its class
for a word count for, in UNITs. Where v_i . s_t and these are added up, these are about the best."""

NEVER = -1e6
"""What speaks for the whole image beside boxes, of which a detector knows nothing, and for what is
no region. Finite, since a share of 0 times infinity is no number."""


@dataclass(frozen=True, slots=True)
class Detected:
    """What the detector knows of the regions of some images, each with one sentence."""

    prior_P: Tensor
    """float32: what speaks for a region, whatever the word."""

    class_P: Tensor
    """int64: the region's column of evidence_WL."""

    evidence_WL: Tensor
    """float32: how much more likely each word of the sentences is beside each class."""

    def to(self, device: torch.device | str) -> Detected:
        return Detected(
            self.prior_P.to(device), self.class_P.to(device), self.evidence_WL.to(device)
        )


def prior(log_confidence_P: Tensor, log_area_P: Tensor, num_regions_B: Tensor) -> Tensor:
    """What speaks for the regions of some images, whatever the word -> prior_P.

    Args:
        log_confidence_P: of the detector.
        log_area_P: of the share of the image.
        num_regions_B: of each image, the first of them the whole.
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
    """The sum over all runs of true pairs; there are as many as words.

    Args:
        regions_PD: the regions of all images, end to end; num_regions_B of each.
        words_WD: the words of the images' own sentences, end to end; lengths_B of each.
        detected: of the same regions and words.
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
    """(B, L, ...), L the longest, the value behind what is shorter.

    Gathered, since the gradient of torch's pad_sequence takes a copy of the whole for each thing.
    """
    position_L = torch.arange(int(lengths_B.max()), device=rows.device)
    row_BL = (lengths_B.cumsum(0) - lengths_B)[:, None] + position_L
    there_BL = position_L < lengths_B[:, None]
    found = rows.index_select(0, row_BL.clamp(max=len(rows) - 1).flatten())
    found = found.view(*row_BL.shape, *rows.shape[1:])
    return found.masked_fill(~there_BL.view(*row_BL.shape, *[1] * (rows.ndim - 1)), value)


def _runs(words_BTR: Tensor) -> Tensor:
    """Each word's numbers and those of its neighbours, added up."""
    padded = F.pad(words_BTR, (0, 0, 1, 1))
    return padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
