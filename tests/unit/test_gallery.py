"""What a card of the gallery is made of."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from vsa_ray.captions import CaptionConfig, CaptionRegions
from vsa_ray.checkpoints import Aligner
from vsa_ray.gallery import gallery_images
from vsa_ray.report import GalleryImage, GalleryWord
from vsa_ray.snippets import SnippetConfig


@pytest.fixture
def pictures(regions: pa.Table, tmp_path: Path) -> pa.Table:
    """The regions of pictures that are there, but for plain.jpg, which has been deleted since."""
    paths = [tmp_path / image_id for image_id in regions["image_id"].to_pylist()]
    for path in paths:
        Image.new("RGB", (100, 50), "red").save(path)
    (tmp_path / "plain.jpg").unlink()
    at = regions.schema.names.index("uri")
    return regions.set_column(at, "uri", pa.array([str(path) for path in paths]))


@pytest.fixture
def captions(run: Path, pictures: pa.Table) -> pa.Table:
    return CaptionRegions(CaptionConfig(beam_size=1), str(run / "mrnn"))(pictures)


@pytest.fixture
def cards(
    pictures: pa.Table, captions: pa.Table, sentences: pa.Table, aligner: Aligner
) -> dict[str, GalleryImage]:
    config = SnippetConfig(beta=1.5)
    found = gallery_images(pictures, captions, sentences, aligner, config)
    return {card.image_id: card for card in found}


def test_a_card_for_every_image_in_order(
    cards: dict[str, GalleryImage], pictures: pa.Table
) -> None:
    assert list(cards) == pictures["image_id"].to_pylist()


def test_a_card_shows_the_picture_its_regions_and_captions(
    cards: dict[str, GalleryImage], pictures: pa.Table, captions: pa.Table
) -> None:
    card = cards["pair.jpg"]
    (row,) = captions.filter(pc.equal(captions["image_id"], "pair.jpg")).to_pylist()
    (image,) = pictures.filter(pc.equal(pictures["image_id"], "pair.jpg")).to_pylist()
    assert (card.width, card.height, card.error) == (100, 50, "")
    assert Image.open(io.BytesIO(card.jpeg)).size == (100, 50)
    assert (card.caption, card.log_prob) == (row["caption"], row["log_prob"])
    assert [list(region.box) for region in card.regions] == image["boxes"]
    assert [region.label for region in card.regions] == image["labels"]
    assert [region.score for region in card.regions] == image["scores"]
    assert [region.caption for region in card.regions] == [
        row["caption"],
        *(region["caption"] for region in row["regions"]),
    ]


def test_words_are_on_their_regions(cards: dict[str, GalleryImage]) -> None:
    expected = [
        [("a", 1), ("dog", 1), ("runs", 1), ("a", 2), ("red", 2), ("ball", 2)],
        [("zebra", None), ("dog", 1), ("zebra", None)],
    ]
    assert cards["pair.jpg"].references == [
        [GalleryWord(text=text, region=region) for text, region in sentence]
        for sentence in expected
    ]


def test_images_that_failed_say_why(cards: dict[str, GalleryImage]) -> None:
    broken = cards["broken.jpg"]
    assert (broken.error, broken.caption, broken.regions) == ("not an image", "", [])
    assert broken.references == [
        [GalleryWord(text="a", region=None), GalleryWord(text="dog", region=None)]
    ]
    assert "plain.jpg" in cards["plain.jpg"].error


def test_images_that_were_not_captioned_say_so(
    pictures: pa.Table, captions: pa.Table, sentences: pa.Table, aligner: Aligner
) -> None:
    rows = captions.to_pylist()[:2]
    rows[1] |= {"caption": None, "log_prob": None, "regions": [], "error": "lost since"}
    captions = pa.Table.from_pylist(rows, schema=captions.schema)
    found = list(
        gallery_images(pictures.slice(0, 3), captions, sentences, aligner, SnippetConfig())
    )
    assert [card.error for card in found] == [
        "",
        "no caption: lost since",
        "no caption: it is not in the captions table",
    ]


def test_an_image_without_sentences(
    pictures: pa.Table, captions: pa.Table, sentences: pa.Table, aligner: Aligner
) -> None:
    none = sentences.slice(0, 0)
    (card,) = gallery_images(pictures.slice(0, 1), captions, none, aligner, SnippetConfig())
    assert card.references == []
    assert len(card.regions) == 2


def test_cards_are_made_one_at_a_time(
    pictures: pa.Table, captions: pa.Table, sentences: pa.Table, aligner: Aligner
) -> None:
    cards = gallery_images(pictures, captions, sentences, aligner, SnippetConfig())
    next(cards)
    Path(pictures["uri"][1].as_py()).unlink()
    assert next(cards).error
