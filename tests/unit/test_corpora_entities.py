"""Phrases and boxes of Flickr30k Entities."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from vsa_ray import schema, storage
from vsa_ray.corpora import Corpus, ReaderConfig, read_corpus
from vsa_ray.corpora.entities import parse_annotation, parse_sentence

ANNOTATION = """\
<annotation>
	<filename>1.jpg</filename>
	<size><width>500</width><height>375</height><depth>3</depth></size>
	<object><name>7</name><name>9</name>
		<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>500</xmax><ymax>40</ymax></bndbox></object>
	<object><name>7</name>
		<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
	<object><name>8</name><scene>1</scene><nobndbox>1</nobndbox></object>
</annotation>"""
BOXES = {"7": [[0.0, 1.0, 500.0, 40.0], [9.0, 19.0, 30.0, 40.0]], "9": [[0.0, 1.0, 500.0, 40.0]]}
LINES = """\
[/EN#7/people A man] on [/EN#8/scene the grass] .
It rains .
A dog , [/EN#9/animals/other a big , "brown" one] 's [/EN#0/notvisual it] [/EN#7/people man] !
"""


def test_boxes_become_zero_based_and_exclusive() -> None:
    annotation = parse_annotation(ANNOTATION.encode())
    assert (annotation.width, annotation.height) == (500, 375)
    assert annotation.boxes == BOXES


@pytest.mark.parametrize(
    ("line", "words", "spans"),
    [
        (LINES.splitlines()[0], "a man on the grass", {"7": (0, 2)}),
        (LINES.splitlines()[1], "it rains", {}),
        (LINES.splitlines()[2], "a dog a big brown one s it man", {"9": (2, 6), "7": (8, 9)}),
        ("[/EN#7/people ...] [/EN#9/other T-shirt's]", "tshirts", {"9": (0, 1)}),
        ("[a] dog ]", "a dog", {}),
        ("", "", {}),
    ],
)
def test_positions_count_words_without_punctuation(
    line: str, words: str, spans: dict[str, tuple[int, int]]
) -> None:
    got, phrases = parse_sentence(line, BOXES)
    assert got == words.split()
    assert phrases == [
        {"first": first, "stop": stop, "boxes": BOXES[chain]}
        for chain, (first, stop) in spans.items()
    ]


@pytest.mark.parametrize(
    "line", ["[/EN#7/people A man on grass .", "[/EN#/people A man]", "[/EN#7 A man]"]
)
def test_malformed_phrases(line: str) -> None:
    with pytest.raises(ValueError, match="a phrase that is not closed, or has no chain"):
        parse_sentence(line, BOXES)


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
NO_SIZE = "<annotation></annotation>"
HUGE = ANNOTATION.replace("375", "99999999999")
OUTSIDE = ANNOTATION.replace("<xmax>500", "<xmax>501")
FRACTION = ANNOTATION.replace("<xmin>10", "<xmin>10.5")


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    folder = tmp_path / "flickr"
    (folder / "images").mkdir(parents=True)
    for name in ("1_x.jpg", "2_y.jpg"):
        Image.new("RGB", (5, 4)).save(folder / "images" / name)
    tokens = "1_x.jpg#0\tIt rains .\n1_x.jpg#1\tA man on the grass\n2_y.jpg#0\tA man .\n"
    (folder / "x.token").write_text(tokens)
    (folder / "train.txt").write_text("1_x\n")
    (folder / "test.txt").write_text("2_y\n")
    return folder


@pytest.fixture
def entities(tmp_path: Path) -> Path:
    folder = tmp_path / "entities"
    for name in ("Annotations", "Sentences"):
        (folder / name).mkdir(parents=True)
    for key in ("1", "2", "3"):
        (folder / f"Annotations/{key}.xml").write_text(ANNOTATION)
        (folder / f"Sentences/{key}.txt").write_text(LINES)
    return folder


def pack(folder: Path, archive: Path, prefix: str = "") -> None:
    with tarfile.open(archive, "w:xz") as tar:
        for name in ("Annotations", "Sentences"):
            tar.add(folder / name, f"{prefix}{name}")


def read(flickr: Path, phrases: str | Path) -> Corpus:
    return read_corpus(str(flickr), ReaderConfig(phrases=str(phrases)))


def test_phrases_of_a_corpus(flickr: Path, entities: Path) -> None:
    corpus = read(flickr, entities)
    assert corpus.phrases.schema == schema.PHRASES
    assert corpus.phrases.num_rows == 4  # a sentence without a boxed phrase is not in it
    assert corpus.phrases.slice(0, 1).to_pylist() == [
        {
            "sentence_id": "1_x.jpg#1",  # the corpus's sentence of the same words
            "image_id": "1_x.jpg",
            "split": "train",
            "words": ["a", "man", "on", "the", "grass"],
            "width": 500,
            "height": 375,
            "phrases": [{"first": 0, "stop": 2, "boxes": BOXES["7"]}],
        }
    ]
    assert corpus.phrases["sentence_id"].to_pylist()[1:] == [
        *("1_x.jpg#phrases2", "2_y.jpg#phrases0", "2_y.jpg#phrases2"),
    ]
    assert corpus.phrases["split"].to_pylist() == ["train", "train", "test", "test"]
    assert corpus.oddities == {"sentence with phrases that is not in the corpus": 3}


def test_names_that_begin_alike_have_phrases_of_their_own(tmp_path: Path, entities: Path) -> None:
    for number in "12":
        Image.new("RGB", (5, 4)).save(tmp_path / f"photo_{number}.jpg")
        for file in (
            entities / "Annotations" / f"{number}.xml",
            entities / f"Sentences/{number}.txt",
        ):
            file.rename(file.with_name(f"photo_{file.name}"))
    said = "".join(f"photo_{number}.jpg#0\tA man on the grass\n" for number in "12")
    (tmp_path / "x.token").write_text(said)
    corpus = read(tmp_path, entities)
    assert set(corpus.phrases["image_id"].to_pylist()) == {"photo_1.jpg", "photo_2.jpg"}
    assert "image without phrases" not in corpus.oddities

    for file in entities.rglob("photo_*"):
        file.rename(file.with_stem("photo"))
    assert read(tmp_path, entities).oddities["image without phrases"] == 2


@pytest.mark.parametrize("prefix", ["", "./", "Flickr30kEntities/"])
def test_an_archive_is_the_directory(
    flickr: Path, entities: Path, tmp_path: Path, prefix: str
) -> None:
    want = read(flickr, entities).phrases
    pack(entities, tmp_path / "annotations.tar.xz", prefix)
    assert read(flickr, tmp_path / "annotations.tar.xz").phrases.equals(want)
    assert read(flickr, tmp_path).phrases.equals(want)


def test_phrases_on_s3(flickr: Path, entities: Path, tmp_path: Path, s3: str) -> None:
    want = read(flickr, entities).phrases
    for file in entities.rglob("*.*"):
        storage.write_bytes(f"{s3}/plain/{file.relative_to(entities)}", file.read_bytes())
    pack(entities, tmp_path / "packed")
    archive = f"{s3}/packed/annotations.tar.xz"
    storage.write_bytes(archive, (tmp_path / "packed").read_bytes())
    for uri in (f"{s3}/plain", f"{s3}/packed", archive):
        assert read(flickr, uri).phrases.equals(want)


@pytest.mark.parametrize("wrong", [BOMB, NO_SIZE, HUGE, OUTSIDE, FRACTION, "<annotation>", "\x00"])
def test_malformed_annotations_are_counted(flickr: Path, entities: Path, wrong: str) -> None:
    (entities / "Annotations/1.xml").write_text(wrong)
    corpus = read(flickr, entities)
    assert corpus.oddities["malformed file in Annotations/"] == 1
    assert corpus.oddities["image without phrases"] == 1
    assert set(corpus.phrases["image_id"].to_pylist()) == {"2_y.jpg"}


def test_a_document_type_in_another_encoding_is_found(flickr: Path, entities: Path) -> None:
    (entities / "Annotations/1.xml").write_bytes(BOMB.encode("utf-16"))
    assert read(flickr, entities).oddities["malformed file in Annotations/"] == 1


def test_malformed_sentences_and_missing_files_are_counted(flickr: Path, entities: Path) -> None:
    (entities / "Annotations/1.xml").unlink()
    (entities / "Sentences/2.txt").write_bytes(b"\xff\n")
    assert read(flickr, entities).oddities == {
        "image without phrases": 2,
        "malformed file in Sentences/": 1,
    }
    (entities / "Sentences/2.txt").write_text("[/EN#7/people A man\n[/EN#7/people A man] .\n")
    corpus = read(flickr, entities)
    assert corpus.oddities == {"image without phrases": 1, "malformed phrase line": 1}
    assert corpus.phrases["sentence_id"].to_pylist() == ["2_y.jpg#0"]


def test_no_annotations(flickr: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing: no Annotations/\*\.xml and Sentences/\*\.txt"):
        read(flickr, tmp_path / "missing")


def test_a_broken_archive(flickr: Path, entities: Path, tmp_path: Path) -> None:
    pack(entities, tmp_path / "whole.tar.xz")
    data = (tmp_path / "whole.tar.xz").read_bytes()
    for broken in (data[: len(data) // 2], b"not an archive", b""):
        (tmp_path / "broken.tar.xz").write_bytes(broken)
        with pytest.raises(ValueError, match=r"broken\.tar\.xz: not an intact \.tar\.xz archive"):
            read(flickr, tmp_path / "broken.tar.xz")


def test_directories_in_an_archive_are_passed_over(
    flickr: Path, entities: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "odd.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        odd = tarfile.TarInfo("Annotations/1.xml")
        odd.type = tarfile.DIRTYPE
        tar.addfile(odd)
        data = LINES.encode()
        text = tarfile.TarInfo("Sentences/1.txt")
        text.size = len(data)
        tar.addfile(text, io.BytesIO(data))
    assert read(flickr, archive).phrases.num_rows == 0
