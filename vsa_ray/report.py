"""Render the gallery: a page of pictures, boxes, words and captions, with a summary.

The gallery is a single self-contained HTML file: pictures are embedded, and its content security
policy allows no requests. It is readable without scripts; the script highlights the box of the
words under the pointer, and vice versa. Captions, names and notes are treated as untrusted text.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vsa_ray.summary import html_tables

__all__ = [
    "GalleryImage",
    "GalleryRegion",
    "GalleryWord",
    "render_gallery",
    "thumbnail",
]

_NUM_COLOURS = 5
_NUM_LINE_STYLES = 4  # 5 x 4 combinations distinguish 19 boxes


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryRegion:
    """A box and its caption."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the picture (not of its thumbnail)."""

    label: str
    """The detected class, or ""."""

    score: float
    """The detector's confidence."""

    caption: str
    log_prob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryWord:
    """A word of a reference sentence and the region it was aligned with."""

    text: str
    region: int | None
    """Index into the picture's regions; None for a word in no snippet: in a run shorter than
    snippets.min_words, or unknown to the model and outside of runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryImage:
    """One card of the gallery. Region 0 is the whole image."""

    image_id: str
    width: int
    """Pixels of the picture that the boxes refer to."""

    height: int
    jpeg: bytes
    """The picture as made by `thumbnail`; not used if `error` is set."""

    caption: str
    log_prob: float
    regions: Sequence[GalleryRegion]
    references: Sequence[Sequence[GalleryWord]]
    error: str = ""
    """Why this picture failed, shown in place of it."""

    def __post_init__(self) -> None:
        for index in {word.region for sentence in self.references for word in sentence}:
            if index is not None and not 0 <= index < len(self.regions):
                raise ValueError(
                    f"GalleryImage {self.image_id!r}: a word is aligned with region {index}, "
                    f"but there are {len(self.regions)} regions"
                )


def thumbnail(pixels: npt.NDArray[np.uint8], max_side: int = 480) -> bytes:
    """(H, W, 3) RGB pixels as a JPEG whose long side is at most `max_side`; never enlarged."""
    image = Image.fromarray(pixels)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()


def render_gallery(
    images: Iterable[GalleryImage], *, title: str, metrics: Mapping[str, Any], note: str
) -> str:
    """The gallery as the text of one HTML file, to be written as UTF-8.

    `metrics` is the content of metrics.json; missing or null parts are omitted. `note` says how the
    results were made; its line breaks are kept.
    """
    failures = 0
    cards = []
    for number, image in enumerate(images):
        cards.append(_card(image, f"p{number}"))
        failures += bool(image.error)
    lead = _count(len(cards), "picture") + (
        f", {failures:,} of which failed. " if failures else ". "
    )
    if len(cards) > failures:
        lead += (
            "Point at words to see their box, or at a box to see its words; tap to keep it. "
            "With a keyboard: Tab to a picture, then the arrow keys."
        )
    facts = html_tables(metrics) + (_note(note) if note else "")
    template = resources.files("vsa_ray").joinpath("report.html").read_text("utf-8")
    parts = {
        "policy": _policy(template),
        "title": escape(title),
        "lead": lead,
        "facts": facts and f'<div class="facts">{facts}</div>',
        "cards": "\n".join(cards),
    }
    # A single pass, so that inserted text that looks like a placeholder is not replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _policy(template: str) -> str:
    """A content security policy that allows our style sheet and our script, and no requests."""
    allowed = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    for tag in ("style", "script"):
        text = template.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed.append(f"{tag}-src 'sha256-{digest}'")
    return "; ".join(allowed)


def _note(note: str) -> str:
    return (
        f'<section><h2>How it was made</h2><p class="made" dir="auto">{escape(note)}</p></section>'
    )


def _card(image: GalleryImage, card_id: str) -> str:
    looks = _looks(image)
    details = [f'<span class="said">{escape(image.image_id)}</span>']
    if image.caption:
        details.append(_log_prob(image.log_prob))
    heading = escape(image.caption or "No caption")
    return (
        f'<article class="card" aria-labelledby="{card_id}">'
        f"{_figure(image, looks)}"
        f'<div class="text"><h2 class="said" id="{card_id}" dir="auto">{heading}</h2>'
        f'<p class="quiet">{" · ".join(details)}</p>'
        f"{_sentences(image, card_id, looks)}{_regions(image, card_id, looks)}</div></article>"
    )


def _looks(image: GalleryImage) -> dict[int, str]:
    """CSS classes (a colour and a line style) of each region, starting with those that have words.

    Regions without words are "spare", hidden until expanded, unless no region has words.
    """
    every = range(len(image.regions))
    aligned = {word.region for sentence in image.references for word in sentence}
    aligned = aligned.intersection(every) or set(every)
    looks = dict.fromkeys(every[:1], "whole")
    for rank, region in enumerate(sorted(every[1:], key=lambda region: region not in aligned)):
        line_style, colour = divmod(rank, _NUM_COLOURS)
        looks[region] = f"c{colour} s{line_style % _NUM_LINE_STYLES}"
    return {r: look if r in aligned else f"{look} spare" for r, look in looks.items()}


def _figure(image: GalleryImage, looks: Mapping[int, str]) -> str:
    if image.error:
        reason = f"<strong>This picture failed</strong><span>{escape(image.error)}</span>"
        return f'<figure class="failed">{reason}</figure>'
    data = base64.b64encode(image.jpeg).decode()
    # Small boxes last, on top, so that the pointer can reach them. Text sizes are relative to a
    # frame 400 wide, which is about its width on a screen.
    unit = max(image.width, image.height * 4 / 3) / 400
    by_size = sorted(looks, key=lambda region: _area(image.regions[region].box), reverse=True)
    boxes = "".join(_box(image.regions[i].box, i, looks[i], unit) for i in by_size)
    return (
        f'<figure><img alt="{escape(image.image_id)}" src="data:image/jpeg;base64,{data}" '
        f'width="{image.width}" height="{image.height}" loading="lazy" decoding="async">'
        f'<svg viewBox="0 0 {image.width} {image.height}" aria-hidden="true">'
        f'<path class="shade"/>{boxes}</svg></figure>'
    )


def _area(box: tuple[float, float, float, float]) -> float:
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)


def _box(box: tuple[float, float, float, float], region: int, look: str, unit: float) -> str:
    x1, y1, x2, y2 = box
    place = f'x="{x1:.1f}" y="{y1:.1f}"'
    rect = f'{place} width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    width, height = (10 + 8 * len(str(region))) * unit, 17 * unit
    return (
        f'<g class="box {look}" data-r="{region}">'
        f'<rect class="halo" {rect}/><rect class="edge" {rect}/>'
        f'<rect class="tag" {place} width="{width:.1f}" height="{height:.1f}"/>'
        f'<text x="{x1 + width / 2:.1f}" y="{y1 + height / 2:.1f}" font-size="{12 * unit:.1f}">'
        f"{region}</text></g>"
    )


def _sentences(image: GalleryImage, card_id: str, looks: Mapping[int, str]) -> str:
    if not image.references:
        return ""
    lines = []
    for sentence in image.references:
        runs = groupby(sentence, key=lambda word: word.region)
        lines.append(" ".join(_run(r, words, card_id, looks) for r, words in runs))
    items = "".join(f'<li class="said" dir="auto">{line}</li>' for line in lines)
    return f'<ol class="sentences" aria-label="Reference sentences, by region">{items}</ol>'


def _run(
    region: int | None, words: Iterable[GalleryWord], card_id: str, looks: Mapping[int, str]
) -> str:
    """Consecutive words of one region. A link, since a button cannot wrap like text."""
    text = escape(" ".join(word.text for word in words))
    if region is None:
        return f'<span class="unknown">{text}</span>'
    return (
        f'<a class="run {looks[region]}" data-r="{region}" href="#{card_id}r{region}">'
        f"{text}<sub>{region}</sub></a>"
    )


def _regions(image: GalleryImage, card_id: str, looks: Mapping[int, str]) -> str:
    shown: list[str] = []
    spare: list[str] = []
    for i, look in looks.items():
        row = f"<li>{_region(image.regions[i], i, f'{card_id}r{i}', look)}</li>"
        (spare if "spare" in look else shown).append(row)
    if not shown:
        return ""
    more = ""
    if spare:
        more = (
            f'<details class="more"><summary class="quiet">{_count(len(spare), "region")} '
            f"without words</summary><ul>{''.join(spare)}</ul></details>"
        )
    return f'<div class="regions"><ul aria-label="Regions">{"".join(shown)}</ul>{more}</div>'


def _region(region: GalleryRegion, index: int, row_id: str, look: str) -> str:
    said = ""
    detail = "whole image" if index == 0 else f"{escape(region.label)} {region.score:.2f}"
    if region.caption:
        said = f'<span class="said" dir="auto">{escape(region.caption)}</span>'
        detail += f" · {_log_prob(region.log_prob)}"
    return (
        f'<button type="button" class="region {look}" id="{row_id}" data-r="{index}" '
        f'aria-pressed="false"><span class="number">{index}</span>{said}'
        f'<span class="quiet">{detail}</span></button>'
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _log_prob(value: float) -> str:
    return f"log p {value:.1f}".replace("-", "\N{MINUS SIGN}")
