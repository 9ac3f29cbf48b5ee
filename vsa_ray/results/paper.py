"""The paper's numbers for the tables of docs/results, with the table each is quoted from."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def _ranks(annotation: tuple[float, ...], search: tuple[float, ...]) -> Row:
    names = ("r1", "r5", "r10", "median_rank")
    return {
        "image_annotation": dict(zip(names, annotation, strict=True)),
        "image_search": dict(zip(names, search, strict=True)),
    }


RETRIEVAL_SOURCE = "Table 5 of its supplement (Flickr8K)"

RETRIEVAL = {
    "DeFrag": _ranks((12.6, 32.9, 44.0, 14), (9.7, 29.6, 42.5, 15)),
    "dependency tree edges": _ranks((14.8, 37.9, 50.0, 9.4), (11.6, 31.4, 43.8, 13.2)),
    "BRNN": _ranks((16.5, 40.6, 54.2, 7.6), (11.8, 32.1, 44.7, 12.4)),
}

CAPTIONS_SOURCE = "Table 2 (Flickr8K, VGG features)"

CAPTIONS = {"RNN": {"bleu1": 57.9, "bleu2": 38.3, "bleu3": 24.5, "bleu4": 16.0}}

BOXES_SOURCE = "Table 3 (200 MSCOCO images, with boxes and texts from its own annotators)"


def _boxes(bleu: tuple[float, ...], **others: float) -> Row:
    return {f"bleu{n}": value for n, value in enumerate(bleu, start=1)} | others


BOXES = {
    "human agreement": _boxes((61.5, 45.2, 30.1, 22.0)),
    "nearest neighbour": _boxes((22.9, 10.5, 0.0, 0.0)),
    "full-frame model": _boxes((14.2, 6.0, 2.2, 0.0), meteor=13.3, rouge_l=21.0, cider=20.3),
    "region-level model": _boxes((35.2, 23.0, 16.1, 14.8), meteor=15.8, rouge_l=35.1, cider=61.6),
}
