"""Captions of whole images and of their regions, and rows for images that failed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vsa_ray import batches, schema
from vsa_ray.captions import CaptionConfig, CaptionRegions
from vsa_ray.checkpoints import Captioner
from vsa_ray.mrnn import beam_search


@pytest.fixture
def stage(run: Path) -> CaptionRegions:
    return CaptionRegions(CaptionConfig(beam_size=2, max_words=4), str(run / "mrnn"))


def test_one_row_an_image_and_one_caption_a_region(
    stage: CaptionRegions, regions: pa.Table, captioner: Captioner
) -> None:
    captions = stage(regions)
    assert captions.schema == schema.CAPTIONS
    for name in ("image_id", "uri", "status", "error"):
        assert captions[name].to_pylist() == regions[name].to_pylist()

    for row, image in zip(captions.to_pylist(), regions.to_pylist(), strict=True):
        if image["status"] != "ok":
            continue
        assert [region["box"] for region in row["regions"]] == image["boxes"][1:]
        one = regions.filter(pc.equal(regions["image_id"], image["image_id"]))
        alone = beam_search(captioner.model, batches.features(one).rows, beam_size=2, max_words=4)
        found = [row, *row["regions"]]
        assert [said["caption"].split() for said in found] == [
            captioner.vocabulary.decode(caption.ids) for caption in alone
        ]
        assert [said["log_prob"] for said in found] == pytest.approx(
            [caption.log_prob for caption in alone], rel=1e-5
        )


def test_captions_differ_between_regions(stage: CaptionRegions, regions: pa.Table) -> None:
    rows = stage(regions).to_pylist()
    assert len({row["caption"] for row in rows}) > 1  # or the test above could not fail


def test_a_failed_image_stays_a_row(stage: CaptionRegions, regions: pa.Table) -> None:
    row = stage(regions).to_pylist()[-1]
    assert row == {
        "image_id": "broken.jpg",
        "uri": "/nowhere/broken.jpg",
        "caption": None,
        "log_prob": None,
        "regions": [],
        "status": "unreadable",
        "error": "not an image",
    }


@pytest.mark.parametrize("rows", [0, 1])
def test_batches_without_a_single_region(
    rows: int, stage: CaptionRegions, regions: pa.Table
) -> None:
    captions = stage(regions.slice(len(regions) - 1, rows))
    assert captions.schema == schema.CAPTIONS
    assert captions["status"].to_pylist() == ["unreadable"] * rows


@pytest.mark.parametrize("name", ["beam_size", "max_words"])
def test_settings_that_cannot_work(name: str) -> None:
    with pytest.raises(ValueError, match=rf"CaptionConfig\.{name} must be >= 1, got 0"):
        CaptionConfig(**{name: 0})
