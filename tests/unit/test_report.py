from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from vsa_ray.report import GalleryImage, GalleryRegion, GalleryWord, render_gallery, thumbnail

ATTACK = "</script><script>alert(1)</script>\"' onload=x {{cards}} &amp;"


def region(caption: str = "a dog", label: str = "dog") -> GalleryRegion:
    return GalleryRegion(box=(4, 6, 20, 30), label=label, score=0.5, caption=caption, log_prob=-2)


def picture(**changes: object) -> GalleryImage:
    values: dict[str, object] = {
        "image_id": "1.jpg",
        "width": 64,
        "height": 48,
        "jpeg": thumbnail(np.zeros((48, 64, 3), np.uint8)),
        "caption": "a dog on grass",
        "log_prob": -7.25,
        "regions": [region(label=""), region()],
        "references": [[GalleryWord(text="grass", region=0), GalleryWord(text="dog", region=1)]],
    }
    return GalleryImage(**(values | changes))  # type: ignore[arg-type]


def page(*images: GalleryImage, title: str = "Title", note: str = "") -> str:
    return render_gallery(images, title=title, metrics={}, note=note)


class Elements(HTMLParser):
    """Every start tag with its attributes, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def test_untrusted_text_adds_no_element_and_stays_readable() -> None:
    def text_of(value: str) -> str:
        word = GalleryWord(text=value, region=1)
        unknown = GalleryWord(text=value, region=None)
        good = picture(
            image_id=value,
            caption=value,
            regions=[region(value), region(value, value)],
            references=[[word, unknown]],
        )
        bad = picture(image_id=value, regions=[], references=[], error=value)
        return page(good, bad, title=value, note=value)

    attacked, plain = text_of(ATTACK), text_of("plain")
    assert [(tag, list(attrs)) for tag, attrs in Elements(attacked).tags] == [
        (tag, list(attrs)) for tag, attrs in Elements(plain).tags
    ]
    assert attacked.count(html.escape(ATTACK)) == plain.count("plain") > 10


def test_policy_allows_exactly_the_style_and_script_of_the_page() -> None:
    text = page(picture())
    (policy,) = (
        attrs["content"]
        for tag, attrs in Elements(text).tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (source,) = re.findall(f"(?s)<{tag}>(.*?)</{tag}>", text)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not any("style" in attrs for _, attrs in Elements(text).tags), "the policy blocks these"


def test_nothing_is_fetched() -> None:
    for tag, attrs in Elements(page(picture())).tags:
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#")), (tag, attrs)


def test_words_in_a_row_of_one_region_are_one_link_to_it() -> None:
    regions = [0, 1, 1, None, 1]
    words = [GalleryWord(text=f"w{i}", region=r) for i, r in enumerate(regions)]
    text = page(picture(references=[words]))
    assert re.findall(r'<a class="run [^"]*" data-r="(\d)" href="#p0r\d">([^<]*)<sub>', text) == [
        ("0", "w0"),
        ("1", "w1 w2"),
        ("1", "w4"),
    ]
    assert '<span class="unknown">w3</span>' in text
    assert {attrs["id"] for attrs in Elements(text).of_class("region")} == {"p0r0", "p0r1"}


def test_boxes_are_drawn_in_pixels_of_the_picture() -> None:
    elements = Elements(page(picture()))
    edge = elements.of_class("edge")[-1]
    assert [edge[name] for name in ("x", "y", "width", "height")] == ["4.0", "6.0", "16.0", "24.0"]
    (svg,) = (attrs for tag, attrs in elements.tags if tag == "svg")
    assert svg["viewbox"] == "0 0 64 48"


def test_nineteen_boxes_look_different() -> None:
    regions = [region() for _ in range(20)]
    words = [GalleryWord(text="w", region=i) for i in range(20)]
    boxes = Elements(page(picture(regions=regions, references=[words]))).of_class("box")
    assert len({attrs["class"] for attrs in boxes}) == 20


def test_regions_without_words_wait_in_the_background() -> None:
    regions = [region() for _ in range(4)]
    words = [GalleryWord(text="w", region=2)]
    boxes = Elements(page(picture(regions=regions, references=[words]))).of_class("box")
    assert {b["data-r"] for b in boxes if "spare" not in (b["class"] or "")} == {"2"}

    unaligned = Elements(page(picture(regions=regions, references=[])))
    assert len(unaligned.of_class("box")) == 4
    assert not unaligned.of_class("spare")


def test_failed_picture_shows_its_reason() -> None:
    failed = picture(jpeg=b"", caption="", regions=[], references=[], error="decode: truncated")
    text = page(failed, picture())
    assert "decode: truncated" in text
    assert "2 pictures, 1 of which failed." in text
    assert sum(tag == "img" for tag, _ in Elements(text).tags) == 1


def test_empty_gallery_has_no_facts() -> None:
    text = page()
    assert "0 pictures." in text
    assert not Elements(text).of_class("facts")


def test_facts_hold_tables_and_note() -> None:
    captions = {"images": 10, "bleu1": 61.25, "meteor": None, "nearest_neighbour": None}
    metrics = {"retrieval": None, "captions": captions}
    text = render_gallery([], title="T", metrics=metrics, note="beam 7\nseed 0")
    assert "<td>61.2</td>" in text
    assert "beam 7\nseed 0</p>" in text


def test_word_of_a_missing_region_is_refused() -> None:
    words = [GalleryWord(text="w", region=2)]
    with pytest.raises(ValueError, match=r"'1\.jpg'.*region 2, but there are 2 regions"):
        picture(references=[words])


@pytest.mark.parametrize(
    ("shape", "size"),
    [((600, 960, 3), (480, 300)), ((960, 600, 3), (300, 480)), ((30, 40, 3), (40, 30))],
)
def test_thumbnail_fits_and_never_grows(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    pixels = np.zeros(shape, np.uint8)
    pixels[..., 0] = 200
    image = Image.open(io.BytesIO(thumbnail(pixels)))
    assert (image.format, image.size) == ("JPEG", size)
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(axis=0)
    assert abs(red - 200) < 4
    assert max(green, blue) < 4


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_of_both_schemes(scheme: int) -> None:
    template = resources.files("vsa_ray").joinpath("report.html").read_text("utf-8")
    block = re.findall(r":root \{(.*?)\}", template, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w{6})", block))

    def contrast(one: str, other: str) -> float:
        low, high = sorted([luminance(colours[one]), luminance(colours[other])])
        return (high + 0.05) / (low + 0.05)

    for ground in ("page", "card"):
        assert min(contrast("ink", ground), contrast("quiet", ground)) >= 4.5
        assert contrast("focus", ground) >= 3
    assert min(contrast(f"c{i}", "card") for i in range(5)) >= 3  # lines, not text
