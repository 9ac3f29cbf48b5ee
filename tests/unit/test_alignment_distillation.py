"""What a detector teaches: the formula as loops over runs, words and regions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vsa_ray.alignment import Detected, distillation_loss
from vsa_ray.alignment.distillation import (
    AREA,
    CONFIDENCE,
    EVIDENCE,
    NEVER,
    SHARPNESS,
    TEMPERATURE,
    UNIT,
    prior,
)

REGIONS = torch.tensor([3, 1, 5])
WORDS = torch.tensor([4, 2, 1])


@pytest.fixture
def vectors() -> tuple[Tensor, Tensor]:
    """Of regions and of words, about as long as a model's."""
    torch.manual_seed(0)
    regions_PD = (0.3 * torch.randn(9, 4, dtype=torch.float64)).requires_grad_()
    words_WD = (0.3 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    return regions_PD, words_WD


@pytest.fixture
def detected() -> Detected:
    torch.manual_seed(1)
    return Detected(
        prior_P=prior(-torch.rand(9), -torch.rand(9), REGIONS),
        class_P=torch.randint(0, 3, (9,)),
        evidence_WL=torch.randn(7, 3),
    )


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(x - max(logits)) for x in logits)
    return [math.exp(x - max(logits)) / total for x in logits]


def written_out(v_PD: Tensor, s_WD: Tensor, detected: Detected) -> float:
    loss, first_region, first_word = 0.0, 0, 0
    for regions, words in zip(REGIONS.tolist(), WORDS.tolist(), strict=True):
        # TrainContext boxes, the whole image is nothing that a detector knows.
        boxes = range(first_region + (regions > 1), first_region + regions)
        for t in range(words):
            run = [first_word + u for u in (t - 1, t, t + 1) if 0 <= u < words]
            z = [sum(float(v_PD[i] @ s_WD[u]) for u in run) for i in boxes]
            known = [
                sum(
                    float(detected.prior_P[i])
                    + EVIDENCE * float(detected.evidence_WL[u, detected.class_P[i]])
                    for u in run
                )
                for i in boxes
            ]
            teacher = softmax([SHARPNESS * (a / UNIT + b) for a, b in zip(z, known, strict=True)])
            student = softmax([a / TEMPERATURE for a in z])
            loss -= sum(q * math.log(p) for q, p in zip(teacher, student, strict=True))
        first_region, first_word = first_region + regions, first_word + words
    return loss


def test_the_loss_is_the_formula(vectors: tuple[Tensor, Tensor], detected: Detected) -> None:
    regions_PD, words_WD = (x.detach() for x in vectors)
    found = distillation_loss(regions_PD, REGIONS, words_WD, WORDS, detected)
    assert found.item() == pytest.approx(written_out(regions_PD, words_WD, detected), rel=1e-6)
    assert found.item() > 1


def test_gradients_go_to_the_student_alone(
    vectors: tuple[Tensor, Tensor], detected: Detected
) -> None:
    """With the teacher held fixed: q - p, by hand, for a run of one word."""
    v_PD, s_WD = vectors
    distillation_loss(v_PD, REGIONS, s_WD, WORDS, detected).backward()
    assert v_PD.grad is not None
    assert s_WD.grad is not None
    boxes, word = slice(5, 9), 6  # of the last image, whose sentence has one word
    z = (v_PD[boxes] @ s_WD[word]).detach()
    known = detected.prior_P[boxes] + EVIDENCE * detected.evidence_WL[word, detected.class_P[boxes]]
    difference = (z / TEMPERATURE).softmax(0) - (SHARPNESS * (z / UNIT + known)).softmax(0)
    torch.testing.assert_close(s_WD.grad[word], difference @ v_PD[boxes].detach() / TEMPERATURE)
    expected_bD = difference[:, None] * s_WD[word].detach() / TEMPERATURE
    torch.testing.assert_close(v_PD.grad[boxes], expected_bD)
    assert (v_PD.grad[[0, 3, 4]] == 0).all()  # whole images, of which one has no box


def test_without_boxes_there_is_nothing_to_learn(vectors: tuple[Tensor, Tensor]) -> None:
    alone, words = torch.ones(2, dtype=torch.int64), torch.tensor([1, 2])
    detected = Detected(prior(-torch.ones(2), -torch.ones(2), alone), alone, torch.ones(3, 2))
    assert distillation_loss(vectors[0][:2], alone, vectors[1][:3], words, detected) == 0
    none = torch.zeros(0, dtype=torch.int64)
    nothing = Detected(torch.zeros(0), none, torch.zeros(0, 2))
    assert distillation_loss(vectors[0][:0], none, vectors[1][:0], none, nothing) == 0


def test_what_speaks_for_a_region() -> None:
    logs = torch.tensor([0.0, -1.0, 0.0, 0.0, -2.0])
    found = prior(logs, 2 * logs, torch.tensor([2, 1, 2]))
    expected = [NEVER, -CONFIDENCE - 2 * AREA, 0, NEVER, -2 * CONFIDENCE - 4 * AREA]
    assert found.tolist() == pytest.approx(expected)
