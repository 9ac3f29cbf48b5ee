"""Flickr30k Entities: phrases of sentences, and the human-drawn boxes for them.

`Annotations/<id>.xml` has the size of the original picture and the boxes of each coreference chain
(a thing that sentences mention), 1-based and inclusive as in Pascal VOC. `Sentences/<id>.txt` has
one sentence per line, `[/EN#<chain>/<type> A red ball] lies on ...`. `<id>` is the stem of an
image's file name, or, as in Flickr8k, the part of it before the first "_".
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from vsa_ray import schema, storage
from vsa_ray.errors import UserError
from vsa_ray.vocabulary import tokenise

ARCHIVE = "annotations.tar.xz"
SUFFIXES = {"Annotations": ".xml", "Sentences": ".txt"}
NUM_READERS = 32
"""Concurrent reads from a directory; on S3 each file is a request."""

LONGEST_SIDE = 65_535
"""JPEG's limit, in pixels."""

_PHRASE = re.compile(r"\[/EN#(\d+)(?:/\w+)+ ([^\[\]]*)\]")


class Annotation(NamedTuple):
    """The boxes on one picture."""

    width: int
    height: int
    boxes: dict[str, list[list[float]]]
    """Chain -> its boxes in our own convention: 0-based, x2 and y2 exclusive."""


def read_phrases(
    uri: str, splits: Mapping[str, str], sentences: pa.Table
) -> tuple[pa.Table, Counter[str]]:
    """`schema.PHRASES` of the images in `splits`, and counts of irregularities.

    Images whose `<id>` is not unique have no phrases. Phrases whose chain has no box are left out,
    as are sentences without any boxed phrase.

    Raises:
        UserError: there are no such annotations at the URI.
    """
    keys = {image_id: _keys(image_id) for image_id in splits}
    used = Counter(key for own in keys.values() for key in {*own})
    annotations, texts, odd = _parsed(_files(uri, used.keys()))
    known = _sentence_ids(sentences)
    rows = []
    for image_id, own in keys.items():
        # What two images could mean is of neither.
        found = (key for key in own if used[key] == 1 and key in annotations and key in texts)
        key = next(found, None)
        if key is None:
            odd["image without phrases"] += 1
            continue
        for number, words, phrases in _boxed(texts[key], annotations[key].boxes, odd):
            same = known[image_id, *words]
            if not same:
                odd["sentence with phrases that is not in the corpus"] += 1
            rows.append(
                {
                    "sentence_id": same.pop(0) if same else f"{image_id}#phrases{number}",
                    "image_id": image_id,
                    "split": splits[image_id],
                    "words": words,
                    "width": annotations[key].width,
                    "height": annotations[key].height,
                    "phrases": phrases,
                }
            )
    return pa.Table.from_pylist(rows, schema=schema.PHRASES), odd


def _keys(image_id: str) -> tuple[str, str]:
    stem = PurePosixPath(image_id).stem
    return stem, stem.partition("_")[0]


def _parsed(
    files: Iterable[tuple[str, str, bytes]],
) -> tuple[dict[str, Annotation], dict[str, str], Counter[str]]:
    """Contents of Annotations/ and of Sentences/ by id, and counts of malformed files."""
    annotations: dict[str, Annotation] = {}
    texts: dict[str, str] = {}
    odd: Counter[str] = Counter()
    for folder, key, data in files:
        try:
            if folder == "Annotations":
                annotations[key] = parse_annotation(data)
            else:
                texts[key] = data.decode()
        except (ET.ParseError, ValueError):
            odd[f"malformed file in {folder}/"] += 1
    return annotations, texts, odd


def _boxed(
    text: str, boxes: Mapping[str, list[list[float]]], odd: Counter[str]
) -> Iterator[tuple[int, list[str], list[dict[str, Any]]]]:
    """(line number, words, phrases) of the lines with boxed phrases."""
    for number, line in enumerate(text.split("\n")):
        try:
            words, phrases = parse_sentence(line, boxes)
        except ValueError:
            odd["malformed phrase line"] += 1
            continue
        if phrases:
            yield number, words, phrases


def _sentence_ids(sentences: pa.Table) -> defaultdict[tuple[str, ...], list[str]]:
    """(image_id, *words) -> ids of the sentences with these words."""
    ids: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in sentences.select(["sentence_id", "image_id", "words"]).to_pylist():
        ids[row["image_id"], *row["words"]].append(row["sentence_id"])
    return ids


def parse_annotation(data: bytes) -> Annotation:
    """Size and boxes of an XML file.

    Raises:
        ValueError: it is not such a file, or has boxes that extend beyond the picture.
        xml.etree.ElementTree.ParseError: it is not XML.
    """
    text = data.decode()  # as text, so that another encoding cannot hide a document type
    if "<!DOCTYPE" in text:
        raise ValueError("a document type can define entities that expand endlessly")
    root = ET.fromstring(text)
    width, height = (int(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
    if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE):
        raise ValueError(f"a picture of {width} x {height}")
    boxes: defaultdict[str, list[list[float]]] = defaultdict(list)
    for thing in root.iter("object"):
        for box in thing.iter("bndbox"):
            x1, y1, x2, y2 = (int(box.findtext(s, "")) for s in ("xmin", "ymin", "xmax", "ymax"))
            if not (1 <= x1 <= x2 <= width and 1 <= y1 <= y2 <= height):
                raise ValueError(f"box {(x1, y1, x2, y2)} in a picture of {width} x {height}")
            for name in thing.iter("name"):
                boxes[name.text or ""].append([x1 - 1.0, y1 - 1.0, float(x2), float(y2)])
    return Annotation(width, height, dict(boxes))


def parse_sentence(
    line: str, boxes: Mapping[str, list[list[float]]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Words of a line, and its phrases that have boxes, as in `schema.PHRASES`.

    Raises:
        ValueError: a phrase is malformed.
    """
    if "/EN#" in _PHRASE.sub("", line):
        raise ValueError(f"a phrase that is not closed, or has no chain: {line}")
    words: list[str] = []
    phrases = []
    end = 0
    for match in _PHRASE.finditer(line):
        words += tokenise(line[end : match.start()])
        first = len(words)
        words += tokenise(match[2])
        if match[1] in boxes and len(words) > first:
            phrases.append({"first": first, "stop": len(words), "boxes": boxes[match[1]]})
        end = match.end()
    return words + tokenise(line[end:]), phrases


def _files(uri: str, keys: Collection[str]) -> Iterator[tuple[str, str, bytes]]:
    """(folder, id, bytes) of the files of the given ids, from an archive or a directory."""
    if storage.exists(uri) and not storage.is_directory(uri):
        return _archived(uri, keys)
    if any(file.endswith(f"/{ARCHIVE}") for file in storage.list_files(uri)):
        return _archived(storage.join(uri, ARCHIVE), keys)
    files = [
        (folder, PurePosixPath(file).stem, file)
        for folder, suffix in SUFFIXES.items()
        for file in storage.list_files(storage.join(uri, folder))
        if file.endswith(suffix)
    ]
    if not files:
        raise UserError(
            f"{uri}: no Annotations/*.xml and Sentences/*.txt, and no {ARCHIVE}; "
            "give the Flickr30k Entities directory, or leave phrases empty"
        )
    return _read([file for file in files if file[1] in keys])


def _read(files: list[tuple[str, str, str]]) -> Iterator[tuple[str, str, bytes]]:
    with ThreadPoolExecutor(NUM_READERS) as pool:
        contents = pool.map(storage.read_bytes, [file for _, _, file in files])
        for (folder, key, _), data in zip(files, contents, strict=True):
            yield folder, key, data


def _archived(uri: str, keys: Collection[str]) -> Iterator[tuple[str, str, bytes]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(uri)), mode="r|xz") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if path.stem in keys and SUFFIXES.get(path.parent.name) == path.suffix:
                    stream = archive.extractfile(member)
                    if stream:  # None for a directory of such a name
                        yield path.parent.name, path.stem, stream.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"{uri}: not an intact .tar.xz archive ({error})") from error
