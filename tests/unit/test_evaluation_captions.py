"""Sentences written for images: what they are compared with."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vsa_ray import evaluation, schema


def of_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


@pytest.fixture
def captions(regions: pa.Table) -> pa.Table:
    written = {"pair.jpg": "a dog runs a red ball", "plain.jpg": "a ball", "dog.jpg": "a ball"}
    rows = [
        {
            "image_id": image_id,
            "caption": written.get(image_id),
            "regions": [],
            "status": "ok" if image_id in written else "unreadable",
        }
        for image_id in regions["image_id"].to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=schema.CAPTIONS)


@pytest.mark.usefixtures("no_java")
def test_captions_beside_the_nearest_neighbours(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    # An image a block, the broken one alone in its own.
    blocks = [regions.slice(i, 1) for i in (0, 4, 1)]
    found = evaluation.captioning(captions, of_split(regions, "test"), sentences, blocks)
    assert found["images"] == 2
    assert found["bleu1"] == pytest.approx(100.0)
    # Both are nearest to ball.jpg and get "A red ball.": a plain ball is not red.
    neighbour = found["nearest_neighbour"]
    assert neighbour["bleu1"] == pytest.approx(100 * 5 / 6)
    own = {"images", "nearest_neighbour", "seen_in_training"}
    assert neighbour.keys() == found.keys() - own


@pytest.mark.usefixtures("no_java")
def test_an_image_that_was_not_captioned_does_not_count(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    # It failed for the job that captions, though regions had been found before.
    missing = pa.Table.from_pylist(
        [
            row | ({"caption": None} if row["image_id"] == "plain.jpg" else {})
            for row in captions.to_pylist()
        ],
        schema=schema.CAPTIONS,
    )
    train, test = of_split(regions, "train"), of_split(regions, "test")
    assert evaluation.captioning(missing, test, sentences, [train])["images"] == 1


@pytest.mark.usefixtures("no_java")
def test_no_neighbours_without_a_train_split(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    found = evaluation.captioning(captions, of_split(regions, "test"), sentences, [])
    assert found["images"] == 2
    assert found["nearest_neighbour"] is None


def test_captions_that_are_of_no_such_image(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    """So that what else was measured of a run is not lost."""
    assert evaluation.captioning(captions.slice(0, 0), regions, sentences, []) is None


@pytest.mark.usefixtures("no_java")
def test_captions_that_were_seen_in_training(
    captions: pa.Table, regions: pa.Table, sentences: pa.Table
) -> None:
    test = of_split(regions, "test")
    assert evaluation.captioning(captions, test, sentences, [])["seen_in_training"] == 0.0
    known = [row | {"caption": "a red ball"} for row in captions.to_pylist()[3:4]]
    of_plain = pa.Table.from_pylist(known, schema=schema.CAPTIONS)
    # "A red ball." was said of ball.jpg, which is in the train split.
    assert evaluation.captioning(of_plain, test, sentences, [])["seen_in_training"] == 100.0
    unseen = sentences.filter(pc.equal(sentences["split"], "test"))
    assert evaluation.captioning(of_plain, test, unseen, [])["seen_in_training"] is None
