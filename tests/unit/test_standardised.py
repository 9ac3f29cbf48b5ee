"""Features in units of their own spread."""

from __future__ import annotations

import math

import pytest
import torch

from vsa_ray.standardised import Standardised


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_features_are_seen_as_standardised(dtype: torch.dtype) -> None:
    model = Standardised(3)
    features_PF = torch.tensor([[3.0, -2.0, 5.0], [1.0, -1.0, 3.0]], dtype=dtype)
    given = features_PF.clone()
    assert torch.equal(model.standardised(features_PF), features_PF.float())
    model.standardise(torch.tensor([1.0, -2.0, 3.0]), torch.tensor([2.0, 0.5, 0.0]))
    # What never varies is only shifted.
    expected = torch.tensor([[1.0, 0.0, 2.0], [0.0, 2.0, 0.0]])
    assert torch.equal(model.standardised(features_PF), expected)
    assert torch.equal(features_PF, given)


def test_checkpoints_keep_both_by_their_names() -> None:
    assert list(Standardised(2).state_dict()) == ["mean_F", "scale_F"]


def test_what_does_not_fit_is_refused() -> None:
    model = Standardised(3)
    with pytest.raises(ValueError, match=r"mean_F has shape \(2,\), but the features are 3 wide"):
        model.standardise(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match=r"scale_F has shape \(2,\), but the features are 3 wide"):
        model.standardise(torch.zeros(3), torch.ones(2))
    with pytest.raises(ValueError, match="scale_F not negative"):
        model.standardise(torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="must be finite"):
        model.standardise(torch.tensor([0.0, math.nan, 0.0]), torch.ones(3))
