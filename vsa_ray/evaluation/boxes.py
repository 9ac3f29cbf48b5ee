"""Captions of human-drawn boxes, scored against the phrases that people used for them.

The paper's Table 3, with Flickr30k Entities in place of its own annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from vsa_ray import metrics
from vsa_ray.alignment import image_sentence_scores
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner

BoxKey = tuple[str, int]
"""An image_id, and the position of the box among those of its image: see `region_references`."""

BOXES_AT_ONCE = 500


def region_references(phrases: pa.Table) -> tuple[pa.Table, dict[BoxKey, list[str]]]:
    """The human-drawn boxes, and the phrases for each.

    Phrases with several boxes ("two dogs") do not describe any one of them, and are left out.

    Returns:
        A table of image_id and boxes, as fractions of the image's width and height; and the phrases
        of each box.
    """
    boxes: dict[str, list[tuple[float, ...]]] = {}
    said: dict[BoxKey, list[str]] = {}
    for row in phrases.to_pylist():
        size = (row["width"], row["height"]) * 2
        own = boxes.setdefault(row["image_id"], [])
        for phrase in row["phrases"]:
            if len(phrase["boxes"]) != 1:
                continue
            box = tuple(x / of for x, of in zip(phrase["boxes"][0], size, strict=True))
            if box not in own:
                own.append(box)
            words = row["words"][phrase["first"] : phrase["stop"]]
            said.setdefault((row["image_id"], own.index(box)), []).append(" ".join(words))
    drawn = {image_id: own for image_id, own in boxes.items() if own}
    return pa.table({"image_id": list(drawn), "boxes": list(drawn.values())}), said


def region_captioning(
    written: Mapping[BoxKey, str], said: Mapping[BoxKey, list[str]]
) -> dict[str, Any]:
    """Scores of one caption per box, and the captions' mean length in words.

    Boxes of failed images have no caption, and do not count.
    """
    keys = {f"{image_id} {number}": (image_id, number) for image_id, number in sorted(written)}
    scores = metrics.score_captions(
        {key: written[box] for key, box in keys.items()},
        {key: said[box] for key, box in keys.items()},
    )
    words = float(np.mean([len(text.split()) for text in written.values()]))
    return {"boxes": len(keys), "words": words, **asdict(scores)}


@torch.inference_mode()
def nearest_snippets(
    aligner: Aligner, features_BF: npt.NDArray[np.floating[Any]], snippets: pa.Table
) -> list[str]:
    """For each box, the training snippet that the alignment model ranks first.

    Args:
        features_BF: one per box.
        snippets: SNIPPETS of the train split. Snippets of the whole image are not candidates.
    """
    pieces = _distinct_pieces(snippets)
    ids = [aligner.vocabulary.encode(piece.split()) for piece in pieces]
    device = aligner.model.mean_F.device
    words = Ragged.of(ids).to(device)
    words_WD = aligner.model.encode_words(words.rows, words.lengths)
    found: list[str] = []
    for rows_bF in torch.from_numpy(features_BF).split(BOXES_AT_ONCE):
        scores_bC = image_sentence_scores(
            aligner.model.encode_regions(rows_bF.to(device)),
            torch.ones(len(rows_bF), dtype=torch.int64, device=device),
            words_WD,
            words.lengths,
            score=aligner.model.config.score,
        )
        found += [pieces[best] for best in scores_bC.argmax(1).tolist()]
    return found


def _distinct_pieces(snippets: pa.Table) -> list[str]:
    """The distinct snippets, in order of first occurrence."""
    pieces: dict[str, None] = {}
    columns = snippets["words"].to_pylist(), snippets["snippets"].to_pylist()
    for words, runs in zip(*columns, strict=True):
        for run in runs:
            if run["region"] != 0:
                pieces[" ".join(words[run["first"] : run["stop"]])] = None
    return list(pieces)
