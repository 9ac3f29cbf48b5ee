"""What all layouts share, the Flickr layout, and plain folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vsa_ray import schema, storage
from vsa_ray.corpora import Corpus, ReaderConfig, read_corpus

TOKENS = """\
b.jpg#0\tA dog runs .
b.jpg#1\tOne brown dog , running .
a.jpg#0\tTwo kids play .
c.jpg#0\tA cat's tail .
"""


def write(folder: Path, name: str, text: str = "") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def paint(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    folder = tmp_path / "flickr"
    write(folder, "text/Flickr.token.txt", TOKENS)
    write(folder, "text/Flickr.lemma.token.txt", TOKENS)
    write(folder, "text/Flickr_8k.trainImages.txt", "b.jpg\n")
    write(folder, "text/Flickr_8k.devImages.txt", "a.jpg\n")
    write(folder, "text/Flickr_8k.testImages.txt", "c.jpg\r\n")
    paint(folder, "photos/a.jpg", "photos/b.jpg", "photos/c.jpg", "thumbnails/b.jpg")
    return folder


def read(folder: Path, **config: object) -> Corpus:
    return read_corpus(str(folder), ReaderConfig(**config))  # type: ignore[arg-type]


def splits(corpus: Corpus) -> dict[str, str]:
    images = corpus.images
    return dict(zip(images["image_id"].to_pylist(), images["split"].to_pylist(), strict=True))


def test_flickr(flickr: Path) -> None:
    corpus = read(flickr)
    assert corpus.images.schema == schema.IMAGES
    assert corpus.images.to_pylist() == [
        {"image_id": "a.jpg", "uri": f"{flickr}/photos/a.jpg", "split": "dev"},
        {"image_id": "b.jpg", "uri": f"{flickr}/photos/b.jpg", "split": "train"},
        {"image_id": "c.jpg", "uri": f"{flickr}/photos/c.jpg", "split": "test"},
    ]
    assert corpus.sentences.schema == schema.SENTENCES
    assert corpus.sentences["sentence_id"].to_pylist() == [
        *("a.jpg#0", "b.jpg#0", "b.jpg#1", "c.jpg#0"),
    ]
    assert corpus.sentences.slice(2, 1).to_pylist() == [
        {
            "sentence_id": "b.jpg#1",
            "image_id": "b.jpg",
            "split": "train",
            "text": "One brown dog , running .",
            "words": ["one", "brown", "dog", "running"],
        }
    ]
    assert corpus.phrases.equals(schema.PHRASES.empty_table())
    assert corpus.oddities == {}


def test_sentences_are_in_order_of_their_numbers(flickr: Path) -> None:
    write(flickr, "text/Flickr.token.txt", "".join(f"a.jpg#{i}\tword\n" for i in (10, 9, 0)))
    sentence_ids = read(flickr).sentences["sentence_id"].to_pylist()
    assert sentence_ids == ["a.jpg#0", "a.jpg#9", "a.jpg#10"]


def test_flickr30k_names_its_files_in_other_ways(flickr: Path) -> None:
    for file in (flickr / "text").iterdir():
        file.unlink()
    write(flickr, "results_20130124.token", TOKENS)
    write(flickr, "train.txt", "b\n")
    write(flickr, "val.txt", "a\n")
    write(flickr, "test.txt", "c\n")
    assert splits(read(flickr)) == {"a.jpg": "dev", "b.jpg": "train", "c.jpg": "test"}


def test_oddities_are_counted_and_left_out(flickr: Path) -> None:
    odd_lines = (
        "no tab here\nno_number.jpg\ttext\na.jpg#one\ttext\n\n"
        "b.jpg#0\tAgain .\ngone.jpg#0\tIts image is gone .\na.jpg#5\t . \n"
    )
    write(flickr, "text/Flickr.token.txt", TOKENS + odd_lines)
    write(flickr, "text/Flickr_8k.trainImages.txt", "b.jpg\nc.jpg\nmissing.jpg\n")
    paint(flickr, "photos/silent.jpg")
    write(flickr, "photos/._a.jpg")
    corpus = read(flickr)
    assert corpus.oddities == {
        "image in no split": 1,
        "image in two splits": 1,
        "image without sentences": 1,
        "malformed sentence line": 3,
        "sentence listed twice": 1,
        "sentence without an image": 1,
        "sentence without words": 1,
        "split line without an image": 1,
    }
    assert splits(corpus) == {"a.jpg": "dev", "b.jpg": "train", "c.jpg": "test", "silent.jpg": ""}
    assert corpus.sentences.num_rows == 4
    assert corpus.sentences["text"][1].as_py() == "A dog runs ."


def test_bytes_that_are_not_utf8_spoil_one_word(flickr: Path) -> None:
    (flickr / "text/Flickr.token.txt").write_bytes(
        b"\xef\xbb\xbfa.jpg#0\tA caf\xe9 \xe2\x80\xa8 .\n"
    )
    assert read(flickr).sentences["words"].to_pylist() == [["a", "caf"]]


@pytest.mark.parametrize("seed", [0, 1])
def test_limits_draw_by_seed_and_higher_ones_only_add(tmp_path: Path, seed: int) -> None:
    names = [f"{i}.jpg" for i in range(40)]
    write(tmp_path, "x.token", "".join(f"{name}#0\tword\n" for name in names))
    write(tmp_path, "train.txt", "\n".join(names[:30]))
    write(tmp_path, "test.txt", "\n".join(names[30:38]))
    paint(tmp_path, *names)
    few, more = (splits(read(tmp_path, max_train=n, max_test=3, seed=seed)) for n in (5, 10))
    assert sorted(few.values()) == ["", "", *["test"] * 3, *["train"] * 5]
    assert few.items() < more.items()
    assert few == splits(read(tmp_path, max_train=5, max_test=3, seed=seed))
    assert few != splits(read(tmp_path, max_train=5, max_test=3, seed=seed + 1))
    assert len(splits(read(tmp_path, max_train=99))) == 40


@pytest.fixture
def unsplit(tmp_path: Path) -> Path:
    """Twenty images, a sentence each, in no split."""
    names = [f"{i:02}.jpg" for i in range(20)]
    write(tmp_path, "own.token.txt", "".join(f"{name}#0\tA dog .\n" for name in names))
    paint(tmp_path, *names)
    return tmp_path


def test_splits_that_a_corpus_lacks_are_drawn_from_train(unsplit: Path) -> None:
    assert set(splits(read(unsplit)).values()) == {""}
    shared = splits(read(unsplit, dev_share=0.1, test_share=0.2))
    assert Counter(shared.values()) == {"train": 14, "dev": 2, "test": 4}
    assert splits(read(unsplit, dev_share=0.1, test_share=0.2)) == shared
    assert splits(read(unsplit, dev_share=0.1, test_share=0.2, seed=1)) != shared
    more = splits(read(unsplit, dev_share=0.3))
    assert {i for i, s in shared.items() if s == "dev"} < {i for i, s in more.items() if s == "dev"}
    assert read(unsplit, dev_share=0.1).oddities == {}
    assert "dev" in splits(read(unsplit, dev_share=0.001)).values()


def test_a_split_that_a_corpus_has_is_left_alone(flickr: Path) -> None:
    assert splits(read(flickr, dev_share=0.5, test_share=0.4)) == splits(read(flickr))


def test_a_share_leaves_images_in_no_split_alone(unsplit: Path) -> None:
    write(unsplit, "own.trainImages.txt", "".join(f"{i:02}.jpg\n" for i in range(10)))
    shared = splits(read(unsplit, dev_share=0.2, max_train=3))
    assert Counter(shared.values()) == {"train": 3, "dev": 2, "": 10}


def test_limits_leave_sentences_of_other_images_out(flickr: Path) -> None:
    write(flickr, "text/Flickr_8k.trainImages.txt", "b.jpg\na.jpg\n")
    write(flickr, "text/Flickr_8k.devImages.txt", "")
    corpus = read(flickr, max_train=1)
    kept = set(corpus.images["image_id"].to_pylist())
    assert set(corpus.sentences["image_id"].to_pylist()) == kept
    assert len(kept) == 2


def test_folder(tmp_path: Path) -> None:
    paint(tmp_path, "b.PNG", "deep/er/a.jpg", "deep/b.png")
    write(tmp_path, "notes.txt")
    corpus = read(tmp_path)
    assert corpus.images["image_id"].to_pylist() == ["b.PNG", "deep/b.png", "deep/er/a.jpg"]
    assert corpus.images["uri"][2].as_py() == f"{tmp_path}/deep/er/a.jpg"
    assert set(splits(corpus).values()) == {""}
    assert corpus.sentences.equals(schema.SENTENCES.empty_table())
    assert corpus.oddities == {}


def test_a_captioned_corpus_can_be_read_as_a_folder(flickr: Path) -> None:
    corpus = read(flickr, format="folder")
    assert corpus.images.num_rows == 4
    assert corpus.images["image_id"][0].as_py() == "photos/a.jpg"


def test_a_corpus_on_s3_is_that_on_the_disk(flickr: Path, s3: str) -> None:
    for file in flickr.rglob("*"):
        if file.is_file():
            storage.write_bytes(f"{s3}/flickr/{file.relative_to(flickr)}", file.read_bytes())
    local, remote = read(flickr), read_corpus(f"{s3}/flickr/", ReaderConfig())
    assert remote.sentences.equals(local.sentences)
    assert remote.images["uri"][0].as_py() == f"{s3}/flickr/photos/a.jpg"
    assert remote.images.drop(["uri"]).equals(local.images.drop(["uri"]))
    assert storage.read_bytes(remote.images["uri"][0].as_py()).startswith(b"\xff\xd8")


def test_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing: no files below it; give the directory"):
        read(tmp_path / "missing")
    write(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=r"not a corpus; looked for \*\.token or"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt is a file; give the directory"):
        read(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"no images \(\.jpg, "):
        read(tmp_path, format="folder")
    with pytest.raises(ValueError, match=r"no token file \(\*\.token or \*\.token\.txt\) below it"):
        read(tmp_path, format="flickr")


def test_no_corpus_on_s3(s3: str) -> None:
    with pytest.raises(ValueError, match=f"{s3}/missing: no files below it"):
        read_corpus(f"{s3}/missing", ReaderConfig())


def test_two_token_files(flickr: Path) -> None:
    write(flickr, "other.token", TOKENS)
    with pytest.raises(ValueError, match=r"2 files could be the token file .*other\.token"):
        read(flickr)


def test_a_token_file_of_something_else(flickr: Path) -> None:
    write(flickr, "text/Flickr.token.txt", "secret\nsecret\n")
    with pytest.raises(ValueError, match=r"Flickr\.token\.txt: no line like name\.jpg#0<TAB>text"):
        read(flickr)


def test_images_that_are_elsewhere(flickr: Path) -> None:
    for image in flickr.rglob("*.jpg"):
        image.rename(image.with_name(f"other_{image.name}"))
    with pytest.raises(ValueError, match=r"none of the images .* \(the first is 'a\.jpg'\)"):
        read(flickr)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "voc"}, r"ReaderConfig\.format must be one of auto, flickr, .* got 'voc'"),
        ({"max_dev": -1}, r"ReaderConfig\.max_dev must be >= 0, got -1"),
        ({"dev_share": 1}, r"ReaderConfig\.dev_share must be in \[0, 1\), got 1"),
        ({"dev_share": 0.5, "test_share": 0.5}, "must leave images to train on, got 0.5 and 0.5"),
    ],
)
def test_config_is_checked(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReaderConfig(**wrong)  # type: ignore[arg-type]


CSV = """\
image,caption
b.jpg,A dog runs .
photos/b.jpg,"One brown dog , running ."
a.jpg, Two kids play .
c.jpg,"A ""cat's"" tail ."
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """As Flickr8k is often handed on."""
    folder = tmp_path / "table"
    write(folder, "captions.txt", CSV)
    paint(folder, "Images/a.jpg", "Images/b.jpg", "Images/c.jpg")
    return folder


def test_csv(table: Path) -> None:
    corpus = read(table, dev_share=0.34, test_share=0.34)
    columns = (corpus.sentences[name].to_pylist() for name in ("sentence_id", "text"))
    assert dict(zip(*columns, strict=True)) == {
        "a.jpg#0": "Two kids play .",
        "b.jpg#0": "A dog runs .",
        "b.jpg#1": "One brown dog , running .",
        "c.jpg#0": 'A "cat\'s" tail .',
    }
    assert sorted(splits(corpus).values()) == ["dev", "test", "train"]
    assert corpus.oddities == {}


@pytest.mark.parametrize("how", ["a column", "lists"])
def test_splits_of_csv(table: Path, how: str) -> None:
    own = {"b.jpg": "train", "a.jpg": "val", "c.jpg": "test"}
    if how == "lists":
        for image_id, split in own.items():
            write(table, f"{split}.txt", f"{image_id}\n")
    else:
        rows = [f"{image_id},{split},word" for image_id, split in own.items()]
        write(table, "captions.txt", "\n".join(["Image, Split, Caption", *rows]))
    assert splits(read(table)) == {"a.jpg": "dev", "b.jpg": "train", "c.jpg": "test"}


def test_odd_rows_of_csv_are_counted(table: Path) -> None:
    odd = "d.jpg,train\n,train,no image\na.jpg,elsewhere,an unknown split\n"
    odd += "b.jpg,train,a comma, and no quotes\n"
    twice = "a.jpg,train,one\na.jpg,test,two\ngone.jpg,train,three\n"
    write(table, "captions.txt", f"image,split,caption\n{odd}{twice}")
    corpus = read(table)
    assert splits(corpus)["a.jpg"] == "test"
    assert corpus.oddities == {
        "image in no split": 2,
        "image in two splits": 1,
        "image without sentences": 2,
        "malformed sentence line": 4,
        "sentence without an image": 1,
    }


@pytest.mark.parametrize("above", ["", "./", "/home/someone/table/"])
def test_images_of_one_name_in_two_folders_of_csv(tmp_path: Path, above: str) -> None:
    paint(tmp_path, "cats/1.jpg", "dogs/1.jpg", "dogs/2.jpg", "thumbnails/2.jpg")
    said = {"cats/1.jpg": "a cat", "dogs/1.jpg": "a dog", "dogs/2.jpg": "a pup"}
    rows = [f"{above}{path},{text}" for path, text in said.items()]
    write(tmp_path, "captions.csv", "\n".join(["image,caption", *rows]))
    corpus = read(tmp_path)
    columns = (corpus.images[name].to_pylist() for name in ("image_id", "uri"))
    assert dict(zip(*columns, strict=True)) == {
        "2.jpg": f"{tmp_path}/dogs/2.jpg",
        "cats/1.jpg": f"{tmp_path}/cats/1.jpg",
        "dogs/1.jpg": f"{tmp_path}/dogs/1.jpg",
    }
    columns = (corpus.sentences[name].to_pylist() for name in ("sentence_id", "text"))
    assert dict(zip(*columns, strict=True)) == {
        "2.jpg#0": "a pup",
        "cats/1.jpg#0": "a cat",
        "dogs/1.jpg#0": "a dog",
    }


def test_csv_of_other_columns(table: Path) -> None:
    write(table, "captions.txt", "file;text\na.jpg;A dog\n")
    with pytest.raises(ValueError, match=r"name columns image and caption \(found: file;text\)"):
        read(table)


def test_csv_with_a_quote_that_never_ends(table: Path) -> None:
    write(table, "captions.txt", f'image,caption\na.jpg,"a dog\n{"b.jpg,a cat" * 20_000}')
    with pytest.raises(ValueError, match=r"captions\.txt: line \d+: .*; is a quote not closed on"):
        read(table)
