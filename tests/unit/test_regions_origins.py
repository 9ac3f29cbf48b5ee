"""What a table and a model say of how regions were made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vsa_ray import outputs, storage
from vsa_ray.regions import RegionConfig, learned_from, learning_from, made_with


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A finished table, of which only its origin is there."""
    theirs = RegionConfig(backbone="resnet18", maps=3, device="cpu")
    made_from = outputs.origin("detect_regions", {"images": "i"}, regions=theirs)
    output = outputs.Output(uri=str(tmp_path / "regions"), made_from=made_from)
    output.commit()
    return output.uri


def test_a_model_says_how_the_regions_were_made_that_it_learned_from(
    table: str, tmp_path: Path
) -> None:
    made = made_with(table)
    expected = RegionConfig(backbone="resnet18", maps=3)
    assert replace(RegionConfig(), **made) == expected
    assert made.keys().isdisjoint({"device", "precision"})  # where, and not what

    model = outputs.Output(
        uri=str(tmp_path / "mrnn"), made_from={"job": "train_mrnn", **learning_from(table)}
    )
    assert learned_from(model.uri) == {}  # it has not learned yet
    model.commit()
    assert learned_from(model.uri) == made


def test_names_in_checkpoints_stay_what_they_are(table: str) -> None:
    assert {"features.backbone": "resnet18", "features.maps": 3}.items() <= (
        learning_from(table).items()
    )


def test_nothing_is_known_of_what_says_nothing(tmp_path: Path) -> None:
    storage.commit(str(tmp_path), {})
    assert made_with(str(tmp_path)) == learning_from(str(tmp_path)) == {}
    assert learned_from(str(tmp_path)) == {}
