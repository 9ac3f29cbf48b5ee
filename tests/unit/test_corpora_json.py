"""Corpora whose sentences are in JSON files: COCO's own, and Karpathy's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vsa_ray.corpora import Corpus, ReaderConfig, read_corpus, readers


def paint(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name)


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def read(folder: Path, **config: Any) -> Corpus:
    return read_corpus(str(folder), ReaderConfig(**config))


def splits(corpus: Corpus) -> dict[str, str]:
    images = corpus.images
    return dict(zip(images["image_id"].to_pylist(), images["split"].to_pylist(), strict=True))


def captions(*names: str, first_id: int = 100) -> dict[str, Any]:
    """A captions file: two sentences an image, in an order of their own."""
    ids = range(first_id, first_id + len(names))
    return {
        "images": [{"id": i, "file_name": name} for i, name in zip(ids, names, strict=True)],
        "annotations": [
            {"id": 1000 * n + i, "image_id": i, "caption": f"Caption {n} of {i}."}
            for n in (0, 1)
            for i in ids
        ],
    }


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Names as in 2017, when both folders have numbers for names."""
    write(tmp_path / "annotations/captions_train2017.json", captions("1.jpg", "2.jpg"))
    val = [f"{i}.jpg" for i in range(3, 8)]
    write(tmp_path / "annotations/captions_val2017.json", captions(*val[::-1], first_id=200))
    write(tmp_path / "annotations/instances_val2017.json", {"annotations": []})
    paint(tmp_path, "train2017/1.jpg", "train2017/2.jpg", *(f"val2017/{name}" for name in val))
    return tmp_path


def test_coco(coco: Path) -> None:
    corpus = read(coco)
    assert splits(corpus) == {
        **{"1.jpg": "train", "2.jpg": "train"},
        **{"3.jpg": "dev", "4.jpg": "dev", "5.jpg": "test", "6.jpg": "test", "7.jpg": "train"},
    }
    assert corpus.images["uri"][0].as_py() == f"{coco}/train2017/1.jpg"
    assert corpus.images["uri"][6].as_py() == f"{coco}/val2017/7.jpg"
    assert corpus.sentences.slice(0, 2).to_pylist() == [
        {
            "sentence_id": f"1.jpg#{n}",
            "image_id": "1.jpg",
            "split": "train",
            "text": f"Caption {n} of 100.",
            "words": ["caption", str(n), "of", "100"],
        }
        for n in (0, 1)
    ]
    assert corpus.oddities == {}


def test_coco_val_beyond_dev_and_test_joins_train(
    coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "COCO_HELD_OUT", 1)
    assert Counter(splits(read(coco)).values()) == {"train": 5, "dev": 1, "test": 1}


def test_coco_with_test_captions_of_its_own(coco: Path) -> None:
    write(coco / "annotations/captions_test.json", captions("9.jpg", first_id=900))
    paint(coco, "test/9.jpg")
    assert Counter(splits(read(coco)).values()) == {"train": 2, "dev": 5, "test": 1}


def test_a_single_captions_file_has_no_split(tmp_path: Path) -> None:
    write(tmp_path / "captions.json", captions("a.jpg", "b.jpg"))
    paint(tmp_path, "a.jpg", "b.jpg")
    corpus = read(tmp_path)
    assert splits(corpus) == {"a.jpg": "", "b.jpg": ""}
    assert corpus.oddities == {"image in no split": 2}


def test_coco_oddities(coco: Path) -> None:
    train = captions("train2017/1.jpg", "2.jpg", "gone.jpg", "3.jpg")
    train["images"] += [{"id": 1}, "image"]
    train["annotations"] += [
        {"image_id": 999, "caption": "Of no image."},
        {"image_id": 100},
        {"image_id": 100, "caption": 7},
        None,
    ]
    train["annotations"] = [a for a in train["annotations"] if not a or a["image_id"] != 101]
    write(coco / "annotations/captions_train2017.json", train)
    corpus = read(coco)
    assert corpus.oddities == {
        "image listed twice": 1,  # 3.jpg of val
        "image without sentences": 1,
        "listed image without a file": 2,  # gone.jpg, and train's 3.jpg
        "malformed annotation": 2,
        "malformed image entry": 2,
        "malformed sentence": 1,
        "sentence without an image": 5,
    }
    assert "2.jpg" in splits(corpus)
    assert "3.jpg" not in splits(corpus)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "no list 'images' in it"),
        ({"images": []}, "no list 'annotations' in it"),
        ({"images": [], "annotations": []}, r"no listed image has a caption; is it a COCO \*cap"),
    ],
)
def test_coco_of_other_json(coco: Path, value: Any, message: str) -> None:
    write(coco / "annotations/captions_train2017.json", value)
    with pytest.raises(ValueError, match=rf"captions_train2017\.json: {message}"):
        read(coco)


def test_coco_of_two_years(coco: Path) -> None:
    write(coco / "annotations/captions_val2014.json", captions("1.jpg"))
    with pytest.raises(ValueError, match=r"two caption files of one part, .*2014.* and .*2017"):
        read(coco)


def test_not_coco(coco: Path) -> None:
    with pytest.raises(ValueError, match=r"no caption file \(captions\*\.json\) below it"):
        read(coco / "train2017", format="coco")


def entry(name: str, split: str, *texts: str, **more: Any) -> dict[str, Any]:
    said = [{"raw": text, "tokens": ["not", "ours"]} for text in texts]
    return {"filename": name, "split": split, "sentences": said, **more}


KARPATHY = [
    entry("a.jpg", "train", "A dog's bone .", "Bone!"),
    entry("b.jpg", "restval", "Two cats ."),
    entry("c.jpg", "val", "Three birds ."),
    entry("d.jpg", "test", "Four fish ."),
]


def test_karpathy(tmp_path: Path) -> None:
    write(tmp_path / "dataset_flickr8k.json", {"images": KARPATHY, "dataset": "flickr8k"})
    paint(tmp_path, *(f"images/{e['filename']}" for e in KARPATHY), "thumbnails/a.jpg")
    corpus = read(tmp_path)
    assert splits(corpus) == {"a.jpg": "train", "b.jpg": "train", "c.jpg": "dev", "d.jpg": "test"}
    assert corpus.images["uri"][0].as_py() == f"{tmp_path}/images/a.jpg"
    assert corpus.sentences["sentence_id"].to_pylist()[:3] == ["a.jpg#0", "a.jpg#1", "b.jpg#0"]
    assert corpus.sentences["words"].to_pylist()[0] == ["a", "dogs", "bone"]
    assert corpus.oddities == {}


def test_karpathy_lies_over_coco(coco: Path) -> None:
    images = [
        entry("3.jpg", "restval", "Three .", filepath="val2017"),
        entry("1.jpg", "train", "One .", filepath="train2017"),
    ]
    write(coco / "dataset_coco.json", {"images": images})
    corpus = read(coco)
    assert corpus.images["uri"].to_pylist() == [
        *(f"{coco}/train2017/1.jpg", f"{coco}/val2017/3.jpg"),
    ]
    assert set(splits(corpus).values()) == {"train"}


def test_karpathy_oddities(tmp_path: Path) -> None:
    holdout = entry("e.jpg", "holdout", "Five .")
    holdout["sentences"] += [{"tokens": ["no", "raw"]}, "text"]
    odd = [
        entry("a.jpg", "train", "Again ."),
        holdout,
        entry("f.jpg", "test"),
        {"filename": "g.jpg"},
        7,
    ]
    write(tmp_path / "dataset_x.json", {"images": KARPATHY + odd})
    paint(tmp_path, *(f"{letter}.jpg" for letter in "abcef"))
    corpus = read(tmp_path)
    assert corpus.oddities == {
        "image in no split": 1,
        "image listed twice": 1,
        "image without sentences": 1,
        "listed image without a file": 1,
        "malformed image entry": 2,
        "malformed sentence": 2,
        "sentence without an image": 1,
    }
    assert "d.jpg" not in splits(corpus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ('{"image": []}', "no list 'images' in it"),
        ('{"images": [{"file_name": "a.jpg"}]}', "no entry of 'images' has 'filename' and"),
    ],
)
def test_not_karpathy(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=rf"dataset\.json: {message}"):
        read(tmp_path)


def test_images_that_are_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "dataset.json", {"images": [entry("a.jpg", "train")]})
    with pytest.raises(ValueError, match="its files name was found below it"):
        read(tmp_path)
