"""Generated pictures: what is drawn, what is said of it, and the files that hold both."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vsa_ray import storage
from vsa_ray.corpora import ReaderConfig, SceneConfig, generate_scenes, read_corpus
from vsa_ray.corpora.scene_pictures import paint
from vsa_ray.corpora.scene_plans import COLOURS, PATTERNS, Box, Scene, Thing, plan_scene
from vsa_ray.corpora.scene_sentences import NOUNS, Phrase, Sentence
from vsa_ray.corpora.scene_shapes import SHAPES
from vsa_ray.corpora.scenes import imagine, plain_text
from vsa_ray.vocabulary import Vocabulary, tokenise

SMALL = SceneConfig(train=2, dev=1, test=1)
SCENES = [imagine(0, f"train-{index:06d}") for index in range(300)]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def colour_shares(scene: Scene) -> npt.NDArray[np.float64]:
    """Share of each channel in a pixel's sum: a shadow does not change it."""
    pixels = np.asarray(paint(scene), dtype=np.float64) + 1
    shares: npt.NDArray[np.float64] = pixels / pixels.sum(axis=2, keepdims=True)
    return shares


@pytest.mark.parametrize("tilt", [-12.0, 0.0, 7.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_is_what_is_drawn(shape: str, tilt: float) -> None:
    box = (30, 40, 110, 121)
    thing = Thing(shape, "red", True, box, tilt, mirrored=tilt > 0)
    scene = Scene(192, 160, "plain", "blue", (thing,), texture=5)
    empty = dataclasses.replace(scene, things=())
    changed = np.abs(colour_shares(scene) - colour_shares(empty)).max(axis=2) > 0.05
    rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
    drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.abs(np.subtract(drawn, box)).max() <= 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_there_and_keeps_the_colour(pattern: str) -> None:
    scene = Scene(256, 192, pattern, "green", (), texture=1)
    pixels = np.asarray(paint(scene), dtype=np.float64)
    red, green, blue = pixels.mean(axis=(0, 1))
    assert green > red + 10 > blue
    steps = np.concatenate([pixels[12:] - pixels[:-12], pixels[:, 12:] - pixels[:, :-12]], None)
    assert (np.abs(steps).mean() > 6) == (pattern != "plain")


def test_pictures_of_one_scene_are_equal() -> None:
    scene = SCENES[0][0]
    assert np.array_equal(np.asarray(paint(scene)), np.asarray(paint(scene)))
    other = dataclasses.replace(scene, texture=scene.texture + 1)
    assert not np.array_equal(np.asarray(paint(scene)), np.asarray(paint(other)))


def apart(a: Box, b: Box) -> bool:
    return a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_things_lie_apart_inside_the_picture() -> None:
    for scene, _ in SCENES:
        for i, thing in enumerate(scene.things):
            x1, y1, x2, y2 = thing.box
            assert 0 < x1 < x2 < scene.width
            assert 0 < y1 < y2 < scene.height
            share = ((x2 - x1) * (y2 - y1)) ** 0.5 / min(scene.width, scene.height)
            assert (0.4 < share < 0.52) if thing.large else (0.24 < share < 0.33)
            assert all(apart(thing.box, other.box) for other in scene.things[:i])
            assert thing.colour != scene.colour


def test_scenes_vary() -> None:
    things = [thing for scene, _ in SCENES for thing in scene.things]
    assert {len(scene.things) for scene, _ in SCENES} == {1, 2, 3, 4}
    assert {scene.pattern for scene, _ in SCENES} == set(PATTERNS)
    assert min(Counter(thing.shape for thing in things).values()) > 30
    assert Counter(thing.shape for thing in things).keys() == SHAPES.keys() == NOUNS.keys()
    assert min(Counter(thing.colour for thing in things).values()) > 40
    assert {thing.colour for thing in things} == COLOURS.keys()


def phrases(sentence: Sentence) -> list[Phrase]:
    return [piece for piece in sentence if isinstance(piece, Phrase)]


def test_five_different_sentences_name_what_is_there() -> None:
    for scene, sentences in SCENES:
        assert len({plain_text(sentence) for sentence in sentences}) == 5
        named = {phrase.thing for phrase in phrases(sentences[0])}
        assert named == {None, *range(len(scene.things))}
        for phrase in (p for sentence in sentences for p in phrases(sentence)):
            article, *adjectives, noun = phrase.text.split()
            assert article == ("an" if phrase.text.split()[1][0] in "aeiou" else "a")
            if phrase.thing is None:
                assert noun == "background"
                assert scene.colour in adjectives
            else:
                thing = scene.things[phrase.thing]
                assert noun in NOUNS[thing.shape]
                assert adjectives[-1] == thing.colour
                assert set(adjectives[:-1]) <= (
                    {"large", "big"} if thing.large else {"small", "little", "tiny"}
                )


def middle(thing: Thing) -> tuple[float, float]:
    return (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2


def test_relations_are_true() -> None:
    seen: Counter[str] = Counter()
    for scene, sentences in SCENES:
        for sentence in sentences:
            for one, relation, other in zip(sentence, sentence[1:], sentence[2:], strict=False):
                if not (isinstance(one, Phrase) and isinstance(other, Phrase)):
                    continue
                if one.thing is None or other.thing is None or relation in ("and", ","):
                    continue
                a, b = scene.things[one.thing], scene.things[other.thing]
                (ax, ay), (bx, by) = middle(a), middle(b)
                word = str(relation).split()[-2 if str(relation).endswith(" of") else -1]
                true = {
                    "left": ax < bx,
                    "right": ax > bx,
                    "above": ay < by,
                    "over": ay < by,
                    "below": ay > by,
                    "under": ay > by,
                    "to": abs(ax - bx) < 0.75 * scene.width,  # next to
                    "beside": abs(ax - bx) < 0.75 * scene.width,
                    "than": a.large != b.large and a.large == ("smaller" not in str(relation)),
                }
                assert true[word], plain_text(sentence)
                seen[word] += 1
    assert len(seen) == 9
    assert min(seen.values()) > 10


def test_places_are_true() -> None:
    seen: Counter[str] = Counter()
    for scene, sentences in SCENES:
        for sentence in sentences:
            for phrase, place in itertools.pairwise(sentence):
                if not isinstance(phrase, Phrase) or phrase.thing is None:
                    continue
                if not isinstance(place, str) or not place.startswith(("in the", "on the", "at ")):
                    continue
                x, y = middle(scene.things[phrase.thing])
                for word, true in [
                    ("left", x < scene.width / 2),
                    ("right", x > scene.width / 2),
                    ("top", y < scene.height / 2),
                    ("bottom", y > scene.height / 2),
                ]:
                    if word in place.split():
                        seen[word] += 1
                        assert true, plain_text(sentence)
    assert min(seen.values()) > 50


def test_the_words_can_be_learnt_from_300_pictures() -> None:
    words = [tokenise(plain_text(sentence)) for _, said in SCENES for sentence in said]
    vocabulary = Vocabulary.build(words, min_count=5)
    assert 60 <= len(vocabulary) <= 100
    assert vocabulary == Vocabulary.build(words, min_count=1)


def test_sentences_tell_pictures_apart() -> None:
    pictures = [imagine(0, f"test-{index:06d}") for index in range(60)]
    said = [plain_text(sentence) for _, sentences in pictures for sentence in sentences]
    assert len(set(said)) > 0.98 * len(said)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        generate_scenes(str(tmp_path / name), SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    generate_scenes(str(tmp_path / "c"), dataclasses.replace(SMALL, seed=1))
    picture = "images/train-000000.jpg"
    assert files(tmp_path / "a")[picture] != files(tmp_path / "c")[picture]


def test_more_pictures_change_none(tmp_path: Path) -> None:
    generate_scenes(str(tmp_path / "few"), SMALL)
    generate_scenes(str(tmp_path / "more"), dataclasses.replace(SMALL, train=3))
    few, more = files(tmp_path / "few"), files(tmp_path / "more")
    same = [name for name in few if name.startswith(("images/", "entities/"))]
    assert len(same) == 12
    assert all(few[name] == more[name] for name in same)


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    generate_scenes(str(tmp_path), SMALL)
    whole = files(tmp_path)
    kept = tmp_path / "images/dev-000000.jpg"
    for lost in ("scenes.token.txt", "scenes.testImages.txt", "images/test-000000.jpg"):
        (tmp_path / lost).unlink()
    before = kept.stat().st_mtime_ns
    generate_scenes(str(tmp_path), SMALL)
    assert files(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before


def test_scenes_of_another_config_are_not_mixed_in(tmp_path: Path) -> None:
    generate_scenes(str(tmp_path), SMALL)
    whole = files(tmp_path)
    with pytest.raises(ValueError, match=r"holds other scenes .*give another directory"):
        generate_scenes(str(tmp_path), dataclasses.replace(SMALL, seed=1))
    assert files(tmp_path) == whole


def test_config_is_checked() -> None:
    with pytest.raises(ValueError, match=r"SceneConfig\.dev must be >= 0, got -1"):
        SceneConfig(dev=-1)
    with pytest.raises(ValueError, match="SceneConfig: train, dev and test are all 0"):
        SceneConfig(train=0, dev=0, test=0)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_they_are_read_as_any_corpus(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path) if where == "local" else f"{request.getfixturevalue('s3')}/scenes"
    generate_scenes(uri, SMALL)
    corpus = read_corpus(uri, ReaderConfig(phrases=storage.join(uri, "entities")))
    assert corpus.oddities == {}
    assert corpus.images["image_id"].to_pylist() == [
        *("dev-000000.jpg", "test-000000.jpg", "train-000000.jpg", "train-000001.jpg"),
    ]
    assert corpus.images["split"].to_pylist() == ["dev", "test", "train", "train"]
    assert corpus.sentences.num_rows == 20
    for name in ("dev-000000", "train-000001"):
        scene, sentences = imagine(SMALL.seed, name)
        mine = [r for r in corpus.sentences.to_pylist() if r["image_id"] == f"{name}.jpg"]
        assert [row["text"] for row in mine] == [plain_text(s) for s in sentences]
        rows = {r["sentence_id"]: r for r in corpus.phrases.to_pylist()}
        for row, sentence in zip(mine, sentences, strict=True):
            got = rows[row["sentence_id"]]
            assert (got["width"], got["height"]) == (scene.width, scene.height)
            things = [p for p in phrases(sentence) if p.thing is not None]
            assert [p["boxes"] for p in got["phrases"]] == [
                [list(map(float, scene.things[p.thing or 0].box))] for p in things
            ]
            words = [" ".join(got["words"][p["first"] : p["stop"]]) for p in got["phrases"]]
            assert words == [p.text for p in things]


def test_a_picture_file_has_the_size_of_its_scene(tmp_path: Path) -> None:
    generate_scenes(str(tmp_path), SMALL)
    scene = plan_scene(random.Random("0/train-000000"))
    with Image.open(tmp_path / "images/train-000000.jpg") as picture:
        assert picture.size == (scene.width, scene.height)
        drawn = np.asarray(picture, dtype=np.float64)
    assert np.abs(drawn - np.asarray(paint(scene))).mean() < 4  # JPEG's loss
