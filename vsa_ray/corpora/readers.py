"""Readers of five layouts with one kind of result: images, their splits and their sentences.

Malformed lines and entries are counted and skipped. A malformed corpus raises an error.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from vsa_ray import storage
from vsa_ray.corpora.layouts import (
    COCO_FILES,
    CSV_FILES,
    IMAGE_SUFFIXES,
    KARPATHY_FILES,
    TOKEN_FILES,
    Layout,
)
from vsa_ray.errors import UserError

COCO_HELD_OUT = 5_000
"""Size of COCO's dev split, and of its test split."""

# If an image is in two lists the later one wins, so that a published test set stays complete.
SPLIT_LISTS = {
    "train": ("*trainimages.txt", "train.txt"),
    "dev": ("*devimages.txt", "*valimages.txt", "dev.txt", "val.txt"),
    "test": ("*testimages.txt", "test.txt"),
}
KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}
CSV_SPLITS = {**KARPATHY_SPLITS, "dev": "dev", "": ""}


class CorpusSentence(NamedTuple):
    """One sentence as it is in the corpus."""

    image_id: str
    number: int
    text: str


@dataclass(slots=True)
class Contents:
    """The contents of a corpus."""

    images: dict[str, str] = field(default_factory=dict)
    """image_id -> URI of a file that exists."""

    splits: dict[str, str] = field(default_factory=dict)
    """image_id -> split; images in no split may be missing."""

    sentences: list[CorpusSentence] = field(default_factory=list)
    """At most one per image and number; some may belong to images that do not exist."""

    oddities: Counter[str] = field(default_factory=Counter)


class Entry(NamedTuple):
    """An image as a JSON file lists it."""

    folder: str
    """Images with the same value are in one folder."""

    name: str
    split: str
    texts: list[Any]


def read_folder(layout: Layout) -> Contents:
    """Images only, identified by their path below the directory, and in no split."""
    images = layout.images()
    if not images:
        raise UserError(f"{layout.uri}: no images ({', '.join(IMAGE_SUFFIXES)}) below it")
    return Contents(images=images)


def read_flickr(layout: Layout) -> Contents:
    """`name.jpg#0<TAB>text` lines, and a list of image names per split."""
    contents = Contents()
    said: dict[tuple[str, int], CorpusSentence] = {}
    token_file = layout.the_file("token file", TOKEN_FILES)
    for line in lines(token_file):
        name, tab, text = line.partition("\t")
        image_id, sharp, number = name.rpartition("#")
        if not (tab and sharp and image_id and number.isdecimal()):
            contents.oddities["malformed sentence line"] += 1
        elif (image_id, int(number)) in said:
            contents.oddities["sentence listed twice"] += 1
        else:
            said[image_id, int(number)] = CorpusSentence(image_id, int(number), text)
    if not said:
        raise UserError(f"{token_file}: no line like name.jpg#0<TAB>text; is it a token file?")
    contents.sentences = list(said.values())
    contents.images = layout.image_folder({image_id for image_id, _ in said})
    _read_split_lists(layout, contents)
    return contents


def _read_split_lists(layout: Layout, contents: Contents) -> None:
    stems = {PurePosixPath(name).stem: name for name in contents.images}  # Flickr30k omits .jpg
    for split, patterns in SPLIT_LISTS.items():
        for line in (line for file in layout.matching(patterns) for line in lines(file)):
            name = line.strip()
            image_id = name if name in contents.images else stems.get(name)
            if image_id is None:
                contents.oddities["split line without an image"] += 1
            elif (contents.splits.get(image_id) or split) == split:
                contents.splits[image_id] = split
            else:
                contents.oddities["image in two splits"] += 1
                contents.splits[image_id] = split


def read_csv(layout: Layout) -> Contents:
    """One row per sentence, with columns `image` (a name, or a path) and `caption`; splits from a
    column `split`, or from lists like Flickr's."""
    file = layout.the_file("CSV file", CSV_FILES)
    text = storage.read_bytes(file).decode("utf-8-sig", errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
    if not {"image", "caption"}.issubset(rows.fieldnames):
        raise UserError(
            f"{file}: its first line must name columns image and caption (found: "
            f"{', '.join(rows.fieldnames) or 'nothing'})"
        )
    contents, numbers = Contents(), Counter[str]()
    said = []
    for row in _rows(file, rows):
        name = (row["image"] or "").strip()
        split = CSV_SPLITS.get((row.get("split") or "").strip().lower())
        # DictReader puts surplus fields under None: a comma in a caption without quotes.
        if not PurePosixPath(name).name or not row["caption"] or split is None or None in row:
            contents.oddities["malformed sentence line"] += 1
        else:
            said.append((name, split, row["caption"]))
    ids, contents.images = layout.named({name for name, _, _ in said})
    for name, split, caption in said:
        image_id = ids[name]
        contents.sentences.append(CorpusSentence(image_id, numbers[image_id], caption))
        numbers[image_id] += 1
        if contents.splits.setdefault(image_id, split) != split:
            contents.oddities["image in two splits"] += 1
            contents.splits[image_id] = split
    _read_split_lists(layout, contents)
    return contents


def _rows(file: str, rows: csv.DictReader[str]) -> Iterator[dict[str | Any, str | Any]]:
    try:
        yield from rows
    except csv.Error as error:
        raise UserError(
            f"{file}: line {rows.line_num}: {error}; is a quote not closed on an earlier line?"
        ) from error


def read_karpathy(layout: Layout) -> Contents:
    """The JSON files of Karpathy's splits; "restval" is training data, as in the paper."""
    file = layout.the_file("JSON file", KARPATHY_FILES)
    oddities: Counter[str] = Counter()
    entries = []
    for image in _json_list(file, "images"):
        match image:
            case {"filename": str(name), "sentences": list(sentences)}:
                split = KARPATHY_SPLITS.get(str(image.get("split")), "")
                texts = [s.get("raw") if isinstance(s, dict) else None for s in sentences]
                entries.append(Entry(str(image.get("filepath", "")), name, split, texts))
            case _:
                oddities["malformed image entry"] += 1
    if not entries:
        raise UserError(f"{file}: no entry of 'images' has 'filename' and 'sentences'")
    return _listed(layout, entries, oddities)


def read_coco(layout: Layout) -> Contents:
    """COCO captions JSON files: captions_train*, captions_val*, captions_test*, or another one.

    COCO's own test captions are not public, so without a captions_test* file the val images are
    split, in order of their names: 5,000 to dev, the next 5,000 to test and the rest to train, the
    sizes used in the paper. Fewer than 10,000 are halved. For results comparable with published
    ones use Karpathy's JSON, which also fixes which images are in which split.
    """
    parts: dict[str, str] = {}
    for file in layout.matching(COCO_FILES):
        name = PurePosixPath(file).name.lower()
        part = next((p for p in ("train", "val", "test") if name.startswith(f"captions_{p}")), "")
        if part in parts:
            raise UserError(
                f"{layout.uri}: two caption files of one part, {parts[part]} and {file}; "
                "give a directory with only one of them (COCO's years share images)"
            )
        parts[part] = file
    if not parts:
        raise UserError(f"{layout.uri}: no caption file ({COCO_FILES[0]}) below it")
    oddities: Counter[str] = Counter()
    entries = []
    for part, file in parts.items():
        found = sorted(_coco_entries(file, oddities), key=lambda entry: entry.name)
        held_out = min(COCO_HELD_OUT, len(found) // 2)
        for i, entry in enumerate(found):
            split = "dev" if part == "val" else part
            if part == "val" and "test" not in parts:
                split = "dev" if i < held_out else "test" if i < 2 * held_out else "train"
            entries.append(entry._replace(folder=part, split=split))
    return _listed(layout, entries, oddities)


def _coco_entries(file: str, oddities: Counter[str]) -> list[Entry]:
    entries: dict[int | str, Entry] = {}
    for image in _json_list(file, "images"):
        match image:
            case {"id": int(key) | str(key), "file_name": str(name)}:
                entries[key] = Entry("", PurePosixPath(name).name, "", [])
            case _:
                oddities["malformed image entry"] += 1
    for annotation in _json_list(file, "annotations"):
        match annotation:
            case {"image_id": int(key) | str(key), "caption": text} if key in entries:
                entries[key].texts.append(text)
            case {"image_id": _, "caption": str()}:
                oddities["sentence without an image"] += 1
            case _:
                oddities["malformed annotation"] += 1
    if not any(entry.texts for entry in entries.values()):
        raise UserError(f"{file}: no listed image has a caption; is it a COCO *captions* file?")
    return list(entries.values())


def _json_list(file: str, key: str) -> list[Any]:
    value = storage.read_json(file)
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise UserError(f"{file}: no list {key!r} in it; is it the right JSON file?")
    return list(value[key])


def _listed(layout: Layout, entries: list[Entry], oddities: Counter[str]) -> Contents:
    """The contents given by the entries of JSON files, with images that exist as files."""
    contents = Contents(oddities=oddities)
    names: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        names[entry.folder].add(entry.name)
    folders = {folder: layout.image_folder(wanted) for folder, wanted in names.items()}
    listed: set[str] = set()
    for entry in entries:
        if entry.name in listed:
            oddities["image listed twice"] += 1
            continue
        listed.add(entry.name)
        if entry.name in folders[entry.folder]:
            contents.images[entry.name] = folders[entry.folder][entry.name]
            contents.splits[entry.name] = entry.split
        else:
            oddities["listed image without a file"] += 1
        for number, text in enumerate(entry.texts):
            if isinstance(text, str):
                contents.sentences.append(CorpusSentence(entry.name, number, text))
            else:
                oddities["malformed sentence"] += 1
    return contents


def lines(uri: str) -> Iterator[str]:
    """Non-empty lines of a text file; bytes that are not UTF-8 become U+FFFD."""
    text = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    # Not splitlines(), which also splits at characters that occur inside captions.
    return (line.rstrip("\r") for line in text.split("\n") if line.strip())
