"""Caption regions: one sentence for the whole image, and one for each of its boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vsa_ray import schema
from vsa_ray.errors import UserError

# Networks and their libraries are imported where they are used, in the workers: the driver only
# refers to this class, and should not have to load them for seconds.

READ = ("image_id", "uri", "boxes", "features", "status", "error")
"""Columns of a `regions` table that captioning needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionConfig:
    beam_size: int = 7
    """Number of most probable unfinished sentences kept at every word; the best finished one
    becomes the caption. 1 is greedy search, which always takes the most probable next word: faster,
    with a lower BLEU."""

    max_words: int = 20
    """Sentences are cut off after this many words."""

    def __post_init__(self) -> None:
        for name in ("beam_size", "max_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"CaptionConfig.{name} must be >= 1, got {getattr(self, name)}")


class CaptionRegions:
    """Stage: a `regions` table in, a `captions` table out; a failed image stays a row."""

    def __init__(self, config: CaptionConfig, checkpoint: str) -> None:
        from vsa_ray import checkpoints

        self.config = config
        self.captioner = checkpoints.load_captioner(checkpoint, checkpoints.best_device())

    def __call__(self, images: pa.Table) -> pa.Table:
        captions = iter(self._write(images))
        rows: list[dict[str, Any]] = []
        names = ("image_id", "uri", "boxes", "status", "error")
        for row in images.select(names).to_pylist():
            boxes = row.pop("boxes")
            written = [
                {"box": box, "caption": caption, "log_prob": log_prob}
                for box, (caption, log_prob) in zip(boxes, captions, strict=False)
            ]
            whole = written[0] if written else {"caption": None, "log_prob": None}
            rows.append(
                {
                    **row,
                    "caption": whole["caption"],
                    "log_prob": whole["log_prob"],
                    "regions": written[1:],
                }
            )
        return pa.Table.from_pylist(rows, schema=schema.CAPTIONS)

    def _write(self, images: pa.Table) -> list[tuple[str, float]]:
        """A sentence and its log-probability for every region of every image, concatenated."""
        from vsa_ray import batches, mrnn

        if not any(images["boxes"].combine_chunks().value_lengths().to_numpy()):
            return []
        features_PF = batches.features(images).rows.numpy()
        known = len(self.captioner.model.mean_F)
        if features_PF.shape[1] != known:
            raise UserError(
                f"the model was trained on features of width {known}, but these regions have width "
                f"{features_PF.shape[1]}; make them with the backbone and maps of the regions it "
                "was trained on"
            )
        return mrnn.write_captions(
            self.captioner.model,
            self.captioner.vocabulary,
            np.ascontiguousarray(features_PF),
            beam_size=self.config.beam_size,
            max_words=self.config.max_words,
        )
