"""The tables passed between stages: their columns, and the project's notation.

    corpora/        corpus at a URI ─▶ images, sentences, phrases
    regions/        images ─▶ regions: the whole image + up to 19 boxes, one CNN feature each
    alignment/      regions + sentences ─▶ alignment model (a checkpoint directory)
    snippets.py     regions + sentences + alignment model ─▶ snippets: words with their box
    mrnn/           regions + sentences and/or snippets ─▶ caption model (a checkpoint directory)
    captions.py     regions + caption model ─▶ captions: one per image, one per region
    evaluation/     models + tables, with metrics/ ─▶ metrics.json, which summary.py prints
    gallery.py      models + tables ─▶ cards of images, rendered by report.py ─▶ gallery/index.html

A stage takes a `pyarrow.Table` of one schema and returns one of the next; it never looks inside
another stage. Tables are directories of Parquet files; `storage.py` says how they are committed.

Boxes are `[x1, y1, x2, y2]`, absolute pixels of the decoded (EXIF-rotated) image, float32, with
x2 and y2 exclusive. In a `regions` row, region 0 is always the whole image; detections follow, most
confident first. Fewer than 19 detections are normal: tables are never padded.

Shape suffixes, one letter per axis (`sims_BRW` is images x regions x words):

    B  images of a batch                      C  sentences of a batch
    R  regions of an image                    P  regions of all images of a batch, concatenated
    T  word positions of one sentence         W  words of all sentences of a batch, concatenated
    D  the joint embedding space
    F  width of a CNN feature                 V  vocabulary
    H  hidden units                           G  inputs of a recurrent cell: H, or 4 H for an LSTM
    K  beams of an image                      A  images whose captions are not finished (active)
    L  classes of a detector                  M  regions as states of the chain MRF
    N  workers of a training                  U  (image, word) pairs with a gradient
    Q  queries of a metric

Some letters have another meaning locally: N is also the tokens or rows of a step (mrnn/), training
images (metrics/captions.py) and boxes (metrics/grounding.py, where P is phrases); Q groups of words
(mrnn/beam.py); L the padded length (alignment/distillation.py). A digit is an axis of that length;
a lower-case letter is a slice of an axis, or a single element of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MAX_BOXES = 19
"""Detections kept per image, in addition to the whole image (the paper's 19 + 1)."""

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
"""One row per image of a corpus."""

SENTENCES = pa.schema(
    {
        "sentence_id": pa.string(),
        "image_id": pa.string(),
        "split": pa.string(),
        "text": pa.string(),
        "words": WORDS,  # vocabulary.tokenise(text)
    }
)
"""One row per sentence."""

PHRASES = pa.schema(
    {
        "sentence_id": pa.string(),
        "image_id": pa.string(),
        "split": pa.string(),
        "words": WORDS,
        "width": pa.int32(),  # of the picture the boxes were drawn on, perhaps a larger copy
        "height": pa.int32(),
        "phrases": pa.list_(
            pa.struct(
                {
                    "first": pa.int32(),  # words[first:stop] is the phrase
                    "stop": pa.int32(),
                    "boxes": BOXES,  # any of them counts as correct
                }
            )
        ),
    }
)
"""One row per sentence with human-drawn boxes for its phrases: the ground truth of grounding."""

REGIONS = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "split": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "boxes": BOXES,  # (R, 4); region 0 is the whole image
        "scores": pa.list_(pa.float32()),  # (R,) the detector's confidence; 1 for the whole image
        "labels": pa.list_(pa.string()),  # (R,) the detected class, "" if there is none
        "features": pa.list_(pa.list_(pa.float16())),  # (R, F)
        # "ok", or why there are no regions: "missing", "access_denied", "timeout", "empty",
        # "not_an_image", "truncated", "too_large", "unreadable" or "crashed" (images/failures.py).
        # Then width and height are 0 and the lists are empty.
        "status": pa.string(),
        "error": pa.string(),  # the reason as text; null if status is "ok"
    }
)
"""One row per image: the whole image, and up to `regions.max_boxes` boxes."""

SNIPPETS = pa.schema(
    {
        "sentence_id": pa.string(),
        "image_id": pa.string(),
        "split": pa.string(),
        "words": WORDS,  # all words of the sentence, including those unknown to the model
        # In order of the words. Not in any snippet: words of runs with fewer known words than
        # snippets.min_words, and unknown words outside of runs.
        "snippets": pa.list_(
            pa.struct(
                {
                    "region": pa.int32(),  # index into the image's regions row; 0: whole image
                    "box": BOX,  # of that region
                    "first": pa.int32(),  # words[first:stop] are assigned to this region
                    "stop": pa.int32(),
                    "score": pa.float32(),  # mean over the known words of v_i . s_t
                }
            )
        ),
    }
)
"""One row per sentence that has a known word and an image with status "ok", cut by the chain MRF
into maximal runs of words on one region."""

CAPTIONS = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "caption": pa.string(),  # of the whole image; null if status is not "ok"
        # Natural log of the caption's probability: the sum over its words, and END unless
        # captions.max_words cut it short. Not divided by the length. Null if the caption is.
        "log_prob": pa.float32(),
        # The detected boxes: regions[i] is region i + 1 of the image's regions row, since region 0
        # has the caption above. Empty if nothing was detected or status is not "ok".
        "regions": pa.list_(
            pa.struct({"box": BOX, "caption": pa.string(), "log_prob": pa.float32()})
        ),
        "status": pa.string(),  # as in REGIONS
        "error": pa.string(),  # as in REGIONS
    }
)
"""One row per image: its caption, and one for each of its boxes."""


def matrices(column: pa.ChunkedArray | pa.Array, width: int) -> list[npt.NDArray[np.generic]]:
    """Rows of `list<list<number>>` as one (n, width) array each; views where possible.

    Raises:
        ValueError: the inner lists are not `width` long.
    """
    if isinstance(column, pa.ChunkedArray):
        # Chunk by chunk: 32-bit offsets allow at most 2^31 numbers, which 80,000 images can exceed.
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
    """Start of each of several concatenated runs, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
