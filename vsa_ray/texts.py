"""Sentences and snippets joined to the regions of their image: the input of training and alignment.

A text is a list of words that describes one region: a sentence describes region 0, the whole image;
a snippet describes the box that the chain MRF assigned it to.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vsa_ray import schema
from vsa_ray.vocabulary import Vocabulary

TEXTS = pa.schema(
    {
        "image_id": pa.string(),
        "text_ids": pa.list_(pa.string()),  # sentence_id of the text's sentence
        "text_regions": pa.list_(pa.int32()),
        "texts": pa.list_(pa.list_(pa.string())),  # words
    }
)
"""One row per image, with all its texts."""

Text = tuple[str, str, int, list[str]]
"""image_id, sentence_id, region, words"""


def of_sentences(sentences: pa.Table) -> Iterator[Text]:
    """The texts of a `sentences` table."""
    columns = (sentences[name].to_pylist() for name in ("image_id", "sentence_id", "words"))
    for image_id, sentence_id, words in zip(*columns, strict=True):
        yield image_id, sentence_id, 0, words


def of_snippets(snippets: pa.Table) -> Iterator[Text]:
    """The texts of a `snippets` table, except for those on region 0.

    Whole images are described by their sentences; fragments would teach captions to stop early.
    """
    names = ("image_id", "sentence_id", "words", "snippets")
    for image_id, sentence_id, words, found in zip(
        *(snippets[name].to_pylist() for name in names), strict=True
    ):
        for snippet in found:
            if snippet["region"] != 0:
                run = words[snippet["first"] : snippet["stop"]]
                yield image_id, sentence_id, snippet["region"], run


def known(texts: Iterator[Text], vocabulary: Vocabulary) -> Iterator[Text]:
    """The texts with a word of the vocabulary; a model cannot learn from the others."""
    return (text for text in texts if vocabulary.known(text[3]))


def group_by_image(texts: Iterator[Text]) -> pa.Table:
    """Texts as a TEXTS table, with images in order of their first text."""
    rows: dict[str, tuple[list[str], list[int], list[list[str]]]] = {}
    for image_id, sentence_id, region, words in texts:
        ids, regions, all_words = rows.setdefault(image_id, ([], [], []))
        ids.append(sentence_id)
        regions.append(region)
        all_words.append(words)
    columns = [list(column) for column in zip(*rows.values(), strict=True)] or [[], [], []]
    return pa.table([list(rows), *columns], schema=TEXTS)


def attach(regions: pa.Table, texts: pa.Table) -> pa.Table:
    """Rows of a `regions` table with the TEXTS columns of their image.

    Images that failed, or have no text, are left out.
    """
    regions = regions.filter(pc.equal(regions["status"], "ok"))
    at = pc.index_in(regions["image_id"], value_set=texts["image_id"])
    found = pc.is_valid(at)
    beside = texts.take(at.filter(found))
    regions = regions.filter(found)
    for name in TEXTS.names[1:]:
        regions = regions.append_column(name, beside[name])
    return regions


def only_described(images: pa.Table) -> pa.Table:
    """The result of `attach` without the features of regions that no text describes.

    Training on whole images alone then reads a twentieth of the features. `text_regions` refer to
    the remaining regions.
    """
    if not len(images):
        return images
    features = images["features"].combine_chunks()
    lengths = features.value_lengths().to_numpy(zero_copy_only=False)
    first = np.cumsum(lengths) - lengths
    described = [
        np.unique(regions, return_inverse=True) for regions in images["text_regions"].to_pylist()
    ]
    rows = np.concatenate([start + own for start, (own, _) in zip(first, described, strict=True)])
    columns = {
        "features": pa.ListArray.from_arrays(
            schema.offsets(np.array([len(own) for own, _ in described], np.int32)),
            features.flatten().take(pa.array(rows)),
        ),
        "text_regions": pa.array([at for _, at in described], TEXTS.field("text_regions").type),
    }
    for name, column in columns.items():
        images = images.set_column(images.schema.names.index(name), name, column)
    return images
