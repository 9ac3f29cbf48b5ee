"""From the tables and models of a recipe to its file of results: what is compared with what."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vsa_ray import checkpoints, schema, storage
from vsa_ray.alignment.config import Loss
from vsa_ray.captions import CaptionConfig
from vsa_ray.checkpoints import Aligner, Captioner
from vsa_ray.results import Decoding, Parts, Recipe, assemble, results_page
from vsa_ray.results.grounding import ALONE, WITH_DETECTOR
from vsa_ray.results.measuring import TOGETHER, best_on_dev
from vsa_ray.results.parts import Timed
from vsa_ray.results.recipe import SEES, models_of, of_seed

ALL_SEEDS = f"{TOGETHER}, of all seeds"

LEFT, RIGHT = [0, 0, 40, 50], [60, 0, 100, 50]


def with_dev(table: pa.Table) -> pa.Table:
    """The test rows once more, as the dev split."""
    test = table.filter(pc.equal(table["split"], "test"))
    at = table.schema.names.index("split")
    return pa.concat_tables([table, test.set_column(at, "split", pa.array(["dev"] * len(test)))])


@pytest.fixture
def phrases() -> pa.Table:
    row = {
        "sentence_id": "pair.jpg#0",
        "image_id": "pair.jpg",
        "split": "test",
        "words": ["a", "dog", "runs", "a", "red", "ball"],
        "width": 100,
        "height": 50,
        "phrases": [
            {"first": 0, "stop": 2, "boxes": [LEFT]},
            {"first": 3, "stop": 6, "boxes": [RIGHT]},
            {"first": 5, "stop": 6, "boxes": [RIGHT]},
        ],
    }
    return pa.Table.from_pylist([row], schema=schema.PHRASES)


@pytest.fixture
def recipe(
    tmp_path: Path,
    regions: pa.Table,
    sentences: pa.Table,
    phrases: pa.Table,
    aligner: Aligner,
    captioner: Captioner,
) -> Recipe:
    tables = {
        "regions": with_dev(regions),
        "sentences": with_dev(sentences),
        "phrases": with_dev(phrases),
        "proposals/regions": regions.filter(pc.equal(regions["split"], "test")),
        "people/regions": regions.filter(pc.equal(regions["split"], "test")),
    }
    for name, table in tables.items():
        storage.write_table(str(tmp_path / name), table)
    models = tmp_path / "models"
    losses = [(0, loss, "all") for loss in get_args(Loss) if loss != "softmax"]
    for seed, name, sees in [*((s, n, v) for s in (0, 1) for n, v in SEES.items()), *losses]:
        aligner.model.config = dataclasses.replace(aligner.model.config, regions=sees)
        uri = str(models / of_seed(seed, "alignment", name))
        checkpoints.save(uri, aligner.model, aligner.vocabulary)
    for seed, source in ((0, "images"), (0, "snippets"), (1, "images")):
        uri = str(models / of_seed(seed, "captioner", source))
        checkpoints.save(uri, captioner.model, captioner.vocabulary)
    snippet = {"region": 1, "box": LEFT, "first": 0, "stop": 3, "score": 1.0}
    snippets = {
        "sentence_id": "dog.jpg#0",
        "image_id": "dog.jpg",
        "split": "train",
        "words": ["a", "dog", "runs"],
        "snippets": [snippet],
    }
    storage.write_table(
        str(models / of_seed(0, "snippets")),
        pa.Table.from_pylist([snippets], schema=schema.SNIPPETS),
    )
    return Recipe(
        tables=str(tmp_path),
        models=str(models),
        seeds=2,
        losses=("softmax", "sum_of_hinges", "hardest_negative"),
        writing=CaptionConfig(beam_size=2, max_words=3),
    )


CHOICE = {"retrieval": TOGETHER, "grounding": "all regions"}


def test_what_is_chosen(recipe: Recipe) -> None:
    choice = recipe.choice()
    assert choice["grounding"] == "all regions"
    assert choice["retrieval"] in {*SEES, TOGETHER}


def test_headlines_need_models_of_every_seed() -> None:
    assert models_of(CHOICE) == tuple(SEES)
    alone = {"retrieval": "whole image", "grounding": "boxes"}
    assert models_of(alone) == ("boxes", "whole image")


def test_a_recipe_without_other_losses_has_its_own(recipe: Recipe) -> None:
    assert list(dataclasses.replace(recipe, losses=("softmax",)).by_loss()) == ["softmax"]


def test_aligners(recipe: Recipe) -> None:
    first, second = recipe.retrieval(CHOICE)
    assert list(first) == [*SEES, TOGETHER, ALL_SEEDS]
    assert list(second) == [*SEES, TOGETHER]
    assert first["boxes"]["images"] == 2
    # Both seeds are the same model here.
    assert first[ALL_SEEDS] == first[TOGETHER] == second[TOGETHER]
    assert list(recipe.by_loss()) == list(get_args(Loss))


def test_grounding(recipe: Recipe) -> None:
    decoding = recipe.decoding(CHOICE)
    assert [seed["model"] for seed in decoding] == ["all regions"] * 2
    chosen = [Decoding(**seed) for seed in decoding]
    rows = recipe.grounding(chosen)[0]
    assert rows[ALONE]["iou50"] == rows[WITH_DETECTOR]["iou50"] == 100.0
    assert rows["whole image"] == {"iou50": 0.0, "pointing": 0.0}
    assert rows["selective search: any box (upper bound)"]["iou50"] == 100.0
    independent, *chained = recipe.chain(chosen)[1].values()
    assert independent["iou50"] == 100.0
    assert len(chained) > 10


def test_seeds_with_the_models_of_the_headline_alone(recipe: Recipe) -> None:
    first, second = recipe.retrieval({"retrieval": "boxes", "grounding": "all regions"})
    assert list(first) == [*SEES, TOGETHER, "boxes, of all seeds"]
    assert list(second) == ["all regions", "boxes"]


@pytest.mark.usefixtures("no_java")
def test_captioners(recipe: Recipe) -> None:
    decoding = Decoding(
        "boxes", 0.1, label_weight=0, area_weight=0, whole_image=None, beta=0.1, unit=1.0
    )
    first, second = recipe.captions()
    assert list(first) == ["beam 7", "beam 1", "nearest neighbour"]
    assert list(second) == ["beam 7", "beam 1"]
    assert first["nearest neighbour"]["bleu1"] > 0
    assert first["beam 7"]["images"] == 2
    boxes = recipe.captions_of_boxes(decoding)
    *ours, people = boxes
    models = ("full-frame model", "region-level model")
    beams = [name for model in models for name in (model, f"{model}, beam 1")]
    assert ours == ["nearest snippet", *beams]
    assert [boxes[name]["boxes"] for name in ours] == [2] * 5
    assert people == "people, one against the others"
    assert boxes[people]["boxes"] == 1
    assert boxes[people]["bleu1"] == pytest.approx(100 / 3)  # "a red ball" against "ball"
    assert boxes["nearest snippet"]["words"] == 3.0


@pytest.mark.usefixtures("no_java")
def test_all_of_it_makes_a_file_and_a_page(recipe: Recipe) -> None:
    choice = recipe.choice()
    decoding = recipe.decoding(choice)
    chosen = [Decoding(**seed) for seed in decoding]
    document = assemble(
        {
            "choice": choice,
            "retrieval": recipe.retrieval(choice),
            "losses": recipe.by_loss(),
            "decoding": decoding,
            "grounding": recipe.grounding(chosen),
            "chain": recipe.chain(chosen),
            "captions": recipe.captions(),
            "boxes": recipe.captions_of_boxes(chosen[0]),
        }
    )
    assert {"retrieval", "grounding", "captions"} <= document.keys()
    assert document["retrieval"]["image_search"].keys() == {"r1", "r5", "r10", "median_rank"}
    assert document["spread"]["grounding"]["iou50"] == 0.0
    chosen = document["choice"]["retrieval"]
    assert document["retrieval_rows"][f"{chosen}, of all seeds"]["spread"] == {}
    about = {
        "seeds": [0, 1],
        "at_once": 2,
        "command": "",
        "config": "",
        "commit": "",
        "machine": "",
    }
    page = results_page({"flickr8k": json.loads(json.dumps({**document, **about, "seconds": {}}))})
    for name in (TOGETHER, ALONE, "beam 7", "nearest snippet", "hardest_negative"):
        assert f"| flickr8k: {name} |" in page


def ranks(r1: float) -> dict[str, Any]:
    both = {"r1": r1, "r5": r1, "r10": r1}
    return {"image_annotation": both, "image_search": both}


def test_the_best_row() -> None:
    assert best_on_dev({"boxes": ranks(10), "whole image": ranks(12), "all": ranks(9)}) == (
        "whole image"
    )


def test_a_part_is_made_once(tmp_path: Path) -> None:
    made = []

    def part() -> dict[str, int]:
        made.append(1)
        return {"n": len(made)}

    first, second = Parts(str(tmp_path), "old"), Parts(str(tmp_path), "new")
    assert first.make("a", part) == second.make("a", part) == {"n": 1}
    assert second.make("b", part) == {"n": 2}
    assert second.stamps == ["old", "new"]
    assert second.seconds.keys() == {"a", "b"}


def test_a_part_is_made_once_elsewhere(tmp_path: Path) -> None:
    ran = []

    async def run(name: str, part: Callable[[], Timed]) -> Timed:
        ran.append(name)
        return part()

    first, second = Parts(str(tmp_path), "old"), Parts(str(tmp_path), "new")
    for parts in (first, second):
        assert asyncio.run(parts.make_apart("a, b", lambda: 5, run)) == 5
    assert ran == ["a, b"]
    assert second.make("a, b", lambda: 6) == 5
    assert first.seconds == second.seconds
    assert second.stamps == ["old"]
