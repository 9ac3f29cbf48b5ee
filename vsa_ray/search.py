"""Text-to-image search with a trained alignment model, by scoring every image (no index)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vsa_ray import batches, evaluation
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner
from vsa_ray.errors import UserError
from vsa_ray.vocabulary import tokenise


def search(
    aligner: Aligner, regions: pa.Table, texts: Sequence[str]
) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Score every usable image against every text by Eq. 8.

    All features of `regions` are in memory, and every region is multiplied by every word.

    Args:
        regions: a table of schema.REGIONS, made like the regions the model was trained on.
        texts: at least one, each with a word that the model knows. Unknown words are ignored.

    Returns:
        The image_id of each image whose status is "ok", in the order of `regions`; and scores_BC
        of these images and the texts, higher is better.

    Raises:
        UserError: there is no text, no usable image, or a text without a known word.
    """
    if not texts:
        raise UserError("there is no text to search for")
    good = regions.filter(pc.equal(regions["status"], "ok"))
    if not len(good):
        raise UserError("no image of the regions table is usable: its column `error` says why")
    ids = [aligner.vocabulary.encode(tokenise(text)) for text in texts]
    unknown = [text for text, own in zip(texts, ids, strict=True) if not len(own)]
    if unknown:
        raise UserError(f"the model knows no word of {unknown[0]!r}; use words it was trained on")
    features = batches.features(good, with_detections=aligner.model.config.detections)
    scores_BC = evaluation.text_scores(aligner.model, features, Ragged.of(ids))
    return good["image_id"].to_pylist(), scores_BC
