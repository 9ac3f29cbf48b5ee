"""Mean and standard deviation of the training split's features, for standardisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from torch import Tensor

from vsa_ray import batches, schema, storage

MOMENTS_REGIONS = 100_000
"""Number of regions that is enough to estimate the mean and deviation of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Mean and standard deviation of the features of the training split; see `standardise`."""

    mean_F: npt.NDArray[np.float32]
    scale_F: npt.NDArray[np.float32]

    @classmethod
    def of(cls, regions: str, *, with_detections: bool = False) -> Moments:
        """Estimate from the table at a URI; some thousand images suffice, in constant memory."""
        columns = ["features", "status", *(batches.DETECTIONS if with_detections else ())]
        images = storage.read_blocks(regions, schema.REGIONS, columns=columns, split="train")
        total_F, squares_F, count = torch.zeros(()), torch.zeros(()), 0
        for block in images:
            if count >= MOMENTS_REGIONS:
                break
            good = block.filter(pc.equal(block["status"], "ok"))
            if not len(good):
                continue
            found = batches.features(good, with_detections=with_detections)
            features_PF = found.rows.double()
            total_F = total_F + features_PF.sum(0)
            squares_F = squares_F + features_PF.square().sum(0)
            count += len(features_PF)
        if not count:
            raise storage.StorageError(f"{regions}: no image of the train split has regions")
        mean_F = total_F / count
        scale_F = (squares_F / count - mean_F.square()).clamp(min=0).sqrt()
        return cls(mean_F=mean_F.float().numpy(), scale_F=scale_F.float().numpy())

    def tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.mean_F), torch.from_numpy(self.scale_F)
