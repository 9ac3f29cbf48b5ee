"""Generated corpora: pictures of objects whose names, positions and boxes are known.

They are written in the layout of Flickr30k with Flickr30k Entities, so that a trial run takes the
same path as a real corpus:

    scenes.json                 the SceneConfig
    images/train-000000.jpg
    entities/Annotations/train-000000.xml
    entities/Sentences/train-000000.txt
    scenes.trainImages.txt      likewise for dev and test
    scenes.token.txt            the sentences; written last, so it marks the corpus as complete
"""

from __future__ import annotations

import dataclasses
import io
import logging
import random
from dataclasses import dataclass

from vsa_ray import storage
from vsa_ray.corpora.scene_pictures import paint
from vsa_ray.corpora.scene_plans import Scene, plan_scene
from vsa_ray.corpora.scene_sentences import Phrase, Sentence, describe
from vsa_ray.errors import UserError

logger = logging.getLogger(__name__)

ENTITIES = "entities"
"""The directory below the corpus to use as `ReaderConfig.phrases`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneConfig:
    train: int = 300
    """Number of pictures in the train split, each with five sentences."""

    dev: int = 60
    """Number of pictures in the dev split."""

    test: int = 60
    """Number of pictures in the test split."""

    seed: int = 0
    """The same seed gives the same files, byte for byte; other seeds give other pictures."""

    def __post_init__(self) -> None:
        for split in ("train", "dev", "test"):
            if getattr(self, split) < 0:
                raise ValueError(f"SceneConfig.{split} must be >= 0, got {getattr(self, split)}")
        if self.train + self.dev + self.test == 0:
            raise ValueError("SceneConfig: train, dev and test are all 0; ask for some pictures")


def generate_scenes(uri: str, config: SceneConfig) -> None:
    """Write a corpus to a directory. Pictures already written by a stopped run are kept.

    Raises:
        UserError: the directory holds the scenes of another config.
    """
    _claim(uri, config)
    token_file = storage.join(uri, "scenes.token.txt")
    if storage.exists(token_file):
        return
    drawn = {file.rpartition("/")[2] for file in storage.list_files(storage.join(uri, "images"))}
    tokens = []
    for split in ("train", "dev", "test"):
        names = [f"{split}-{index:06d}" for index in range(getattr(config, split))]
        for name in names:
            scene, sentences = imagine(config.seed, name)
            tokens += [f"{name}.jpg#{i}\t{plain_text(s)}\n" for i, s in enumerate(sentences)]
            if f"{name}.jpg" not in drawn:
                _write_scene(uri, name, scene, sentences)
        listed = "".join(f"{name}.jpg\n" for name in names)
        storage.write_bytes(storage.join(uri, f"scenes.{split}Images.txt"), listed.encode())
        logger.info("%s: %d %s pictures", uri, len(names), split)
    storage.write_bytes(token_file, "".join(tokens).encode())


def imagine(seed: int, name: str) -> tuple[Scene, list[Sentence]]:
    """A scene and its sentences. Depends only on seed and name, not on the number of scenes."""
    rng = random.Random(f"{seed}/{name}")
    scene = plan_scene(rng)
    return scene, describe(scene, rng)


def _claim(uri: str, config: SceneConfig) -> None:
    file = storage.join(uri, "scenes.json")
    wanted = dataclasses.asdict(config)
    if not storage.exists(file):
        storage.write_json(file, wanted)
        return
    found = storage.read_json(file)
    if found != wanted:
        raise UserError(
            f"{uri} holds other scenes (found {found}, wanted {wanted}); give another directory"
        )


def _write_scene(uri: str, name: str, scene: Scene, sentences: list[Sentence]) -> None:
    entities = storage.join(uri, ENTITIES)
    marked = "".join(f"{marked_text(s, scene)}\n" for s in sentences)
    storage.write_bytes(f"{entities}/Sentences/{name}.txt", marked.encode())
    storage.write_bytes(f"{entities}/Annotations/{name}.xml", annotation(name, scene).encode())
    picture = io.BytesIO()
    paint(scene).save(picture, "JPEG", quality=92, subsampling=0)
    # Last, so that every existing picture has its boxes.
    storage.write_bytes(storage.join(uri, "images", f"{name}.jpg"), picture.getvalue())


def plain_text(sentence: Sentence) -> str:
    """As in Flickr8k's token file: "A red ball on a plain green background ." """
    pieces = (piece.text if isinstance(piece, Phrase) else piece for piece in sentence)
    text = " ".join([*pieces, "."])
    return text[0].upper() + text[1:]


def marked_text(sentence: Sentence, scene: Scene) -> str:
    """As in Flickr30k Entities: "[/EN#1/other a red ball] on [/EN#2/scene a plain ...] ." """
    pieces = []
    for piece in sentence:
        if isinstance(piece, str):
            pieces.append(piece)
        elif piece.thing is None:
            pieces.append(f"[/EN#{len(scene.things) + 1}/scene {piece.text}]")
        else:
            pieces.append(f"[/EN#{piece.thing + 1}/other {piece.text}]")
    return " ".join([*pieces, "."])


def annotation(name: str, scene: Scene) -> str:
    """The XML of Flickr30k Entities: chain 1 is the first object, the last one the background."""
    objects = []
    for chain, thing in enumerate(scene.things, start=1):
        x1, y1, x2, y2 = thing.box
        sides = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}  # 1-based, inclusive
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items())
        objects.append(f"<object><name>{chain}</name><bndbox>{box}</bndbox></object>")
    ground = f"<name>{len(scene.things) + 1}</name><scene>1</scene><nobndbox>1</nobndbox>"
    return "\n".join(
        [
            "<annotation>",
            f"<filename>{name}.jpg</filename>",
            f"<size><width>{scene.width}</width><height>{scene.height}</height>"
            "<depth>3</depth></size>",
            *objects,
            f"<object>{ground}</object>",
            "</annotation>\n",
        ]
    )
