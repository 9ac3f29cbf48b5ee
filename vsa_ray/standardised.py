"""Standardisation of features, as part of both models."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardised(nn.Module):
    """Base of models that see features as `(features - mean_F) / scale_F`, kept in the checkpoint.

    A base class rather than a submodule, which would change the two names in checkpoints.

    Args:
        feature_dim: width F of a feature. Until `standardise` is called, features are unchanged.
    """

    mean_F: Tensor
    scale_F: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(feature_dim))
        self.register_buffer("scale_F", torch.ones(feature_dim))

    def standardise(self, mean_F: Tensor, scale_F: Tensor) -> None:
        """Set the mean and scale.

        Args:
            mean_F: mean over the training split.
            scale_F: standard deviation over it; elements that never vary (0) are only shifted.

        Raises:
            ValueError: not F numbers each, or not finite, or a negative scale.
        """
        for name, value_F in (("mean_F", mean_F), ("scale_F", scale_F)):
            if value_F.shape != self.mean_F.shape:
                raise ValueError(
                    f"{name} has shape {tuple(value_F.shape)}, but the features are "
                    f"{len(self.mean_F)} wide"
                )
        if not bool(((scale_F >= 0) & scale_F.isfinite() & mean_F.isfinite()).all()):
            raise ValueError("mean_F and scale_F must be finite, and scale_F not negative")
        self.mean_F.copy_(mean_F)
        self.scale_F.copy_(torch.where(scale_F > 0, scale_F, 1.0))

    def standardised(self, features_PF: Tensor) -> Tensor:
        """Features of any float type -> (P, F) standardised, in the model's type."""
        # Converted first: arithmetic on mixed types is several times slower on a CPU.
        return (features_PF.to(self.mean_F.dtype) - self.mean_F).div_(self.scale_F)
