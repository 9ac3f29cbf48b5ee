"""The hand-offs between stages: every table's columns, and what the names mean.

    corpora/        corpus at a URI ─▶ images, sentences, phrases
    regions/        images ─▶ regions: the whole image + up to 19 boxes, one CNN feature each
    alignment/      regions + sentences ─▶ alignment model (a checkpoint directory)
    snippets.py     regions + sentences + alignment model ─▶ snippets: a box and the words it got
    mrnn/           regions + sentences and/or snippets ─▶ caption model (a checkpoint directory)
    captions.py     regions + caption model ─▶ captions: one an image, one a region
    evaluation/     models + tables, by metrics/ ─▶ metrics.json, which summary.py shows
    gallery.py      models + tables ─▶ cards of images, by report.py ─▶ gallery/index.html

A stage takes a `pyarrow.Table` of one schema and returns one of the next; it never looks inside
another stage. Tables are Parquet directories at a URI; see `storage.py` for how they commit.

Boxes are `[x1, y1, x2, y2]`, absolute pixels of the decoded (EXIF-rotated) image, float32, with
x2 and y2 exclusive. In a `regions` row, region 0 is always the whole image; detections follow, the
most confident first. Fewer than 19 detections is normal: nothing is ever padded in a table.

Shape suffixes, one letter an axis (`sims_BRW` is images x regions x words):

    B  images of a batch                      C  sentences of a batch
    R  regions of an image                    P  regions of all images of a batch, end to end
    T  word positions of one sentence         W  words of all sentences of a batch, end to end
    D  the space that regions and words share
    F  numbers of a CNN feature               V  vocabulary
    H  hidden units                           G  inputs of a recurrent cell: H, or 4 H of an LSTM
    K  beams of an image                      A  images whose captions are still being written
    L  classes of a detector                  M  regions as states of the chain
    N  workers of a training                  U  pairs of an image and a word with a gradient
    Q  queries of a metric

Some letters mean something else in one place: N is also the tokens or rows of
a step (mrnn/), training images (metrics/captions.py) and boxes (metrics/grounding.py, where P is
phrases); Q groups of words (mrnn/beam.py); L the longest of some lists (alignment/distillation.py).
A digit is an axis of that length; a small letter is a part of an axis, or one thing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MAX_BOXES = 19
"""Detections kept of an image, beside the whole image (the paper's 19 + 1)."""

BOX = pa.list_(pa.float32())
BOXES = pa.list_(BOX)
WORDS = pa.list_(pa.string())

IMAGES = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "split": pa.string(),  # "train" | "dev" | "test" | "" (in no split)
    }
)
"""One row an image of a corpus."""

SENTENCES = pa.schema(
    {
        "sentence_id": pa.string(),
        "image_id": pa.string(),
        "split": pa.string(),
        "text": pa.string(),
        "words": WORDS,  # vocabulary.tokenise(text)
    }
)
"""One row a sentence."""

PHRASES = pa.schema(
    {
        "sentence_id": pa.string(),
        "image_id": pa.string(),
        "split": pa.string(),
        "words": WORDS,
        "width": pa.int32(),  # of the picture the boxes were drawn on, which may be a larger copy
        "height": pa.int32(),
        "phrases": pa.list_(
            pa.struct(
                {
                    "first": pa.int32(),  # words[first:stop] is the phrase
                    "stop": pa.int32(),
                    "boxes": BOXES,  # any of them is right
                }
            )
        ),
    }
)
"""One row a sentence whose phrases people boxed: what grounding is measured against."""

REGIONS = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "split": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "boxes": BOXES,  # (R, 4); region 0 is the whole image
        "scores": pa.list_(pa.float32()),  # (R,) confidence of the detector; 1 for the whole image
        "labels": pa.list_(pa.string()),  # (R,) class of the detector, "" where it has none
        "features": pa.list_(pa.list_(pa.float16())),  # (R, F)
        # "ok", or why there are no regions: "missing", "access_denied", "timeout", "empty",
        # "not_an_image", "truncated", "too_large", "unreadable" or "crashed" (images/failures.py).
        # Then width and height are 0 and the lists are empty.
        "status": pa.string(),
        "error": pa.string(),  # the same for people; null where status is "ok"
    }
)
"""One row an image: the whole of it, and up to `regions.max_boxes` boxes."""

SNIPPETS = pa.schema(
    {
        "sentence_id": pa.string(),
        "image_id": pa.string(),
        "split": pa.string(),
        "words": WORDS,  # all of the sentence, known to the model or not
        # In order of the words. Words that are in none: those of runs of fewer known words than
        # snippets.min_words, and unknown ones that do not stand within a run.
        "snippets": pa.list_(
            pa.struct(
                {
                    "region": pa.int32(),  # index into the image's regions row; 0: whole image
                    "box": BOX,  # of that region
                    "first": pa.int32(),  # words[first:stop] went to this region
                    "stop": pa.int32(),
                    "score": pa.float32(),  # mean over the known words of v_i . s_t
                }
            )
        ),
    }
)
"""One row a sentence of an image with status "ok" that has a known word, cut by the chain MRF into
maximal runs of words on one region."""

CAPTIONS = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "caption": pa.string(),  # of the whole image; null where status is not "ok"
        # Natural log of the caption's probability: the sum over its words, and its END unless
        # captions.max_words cut it short. Not divided by the length. Null where the caption is.
        "log_prob": pa.float32(),
        # The detected boxes: regions[i] is region i + 1 of the image's regions row, since region 0
        # has the caption above. Empty where nothing was detected or status is not "ok".
        "regions": pa.list_(
            pa.struct({"box": BOX, "caption": pa.string(), "log_prob": pa.float32()})
        ),
        "status": pa.string(),  # as in REGIONS
        "error": pa.string(),  # as in REGIONS
    }
)
"""One row an image: its caption, and one for each of its boxes."""


def matrices(column: pa.ChunkedArray | pa.Array, width: int) -> list[npt.NDArray[np.generic]]:
    """Rows of `list<list<number>>` as one (n, width) array each; views where memory allows.

    Raises:
        ValueError: an inner list is not `width` long.
    """
    if isinstance(column, pa.ChunkedArray):
        # Not as one: 32-bit offsets count at most 2^31 numbers, which 80,000 images may have.
        return [rows for chunk in column.chunks for rows in matrices(chunk, width)]
    if not len(column):
        return []
    rows = column.flatten()
    widths = rows.value_lengths().to_numpy(zero_copy_only=False)
    if (odd := widths[widths != width]).size:
        raise ValueError(f"expected rows of {width} numbers, got one of {odd[0]:g}")
    flat = rows.flatten().to_numpy(zero_copy_only=False)
    ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))[:-1].astype(np.int64)
    return np.split(flat.reshape(-1, width), ends)


def nested(matrices: Sequence[npt.NDArray[np.generic]], value_type: pa.DataType) -> pa.Array:
    """The inverse of `matrices`: (n, width) arrays, ragged in n, as a `list<list<value_type>>`."""
    lengths = np.array([len(m) for m in matrices], dtype=np.int32)
    widths = np.repeat(np.array([m.shape[1] for m in matrices], dtype=np.int32), lengths)
    flat = np.concatenate([m.reshape(-1) for m in matrices]) if matrices else np.empty(0)
    values = pa.array(flat.astype(value_type.to_pandas_dtype()), type=value_type)
    rows = pa.ListArray.from_arrays(offsets(widths), values)
    return pa.ListArray.from_arrays(offsets(lengths), rows)


def offsets(lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Where each of several runs starts when they lie end to end, and where the last one stops."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
