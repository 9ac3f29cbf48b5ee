"""Five sentences about a generated picture, from a small grammar."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from vsa_ray.corpora.scene_plans import Box, Scene, Thing

NOUNS = {
    "ball": ("ball", "ball", "circle"),
    "box": ("box", "box", "cube"),
    "star": ("star",),
    "heart": ("heart",),
    "ring": ("ring", "ring", "hoop"),
    "moon": ("moon", "moon", "crescent"),
    "flower": ("flower", "flower", "blossom"),
    "house": ("house", "house", "hut"),
    "tree": ("tree",),
    "fish": ("fish",),
    "boat": ("boat", "boat", "ship"),
    "mushroom": ("mushroom", "mushroom", "toadstool"),
}
LARGE = ("large", "large", "big")
SMALL = ("small", "small", "little", "tiny")
PATTERNS = {
    "plain": ("plain",),
    "striped": ("striped",),
    "dotted": ("dotted", "dotted", "spotted"),
    "cloudy": ("cloudy",),
    "checked": ("checked",),
    "wavy": ("wavy",),
}


class Phrase(NamedTuple):
    """A phrase for one object of the picture."""

    text: str
    thing: int | None
    """Index into the scene's things; None for the background."""


Sentence = list[str | Phrase]
"""The pieces of a sentence, in order."""


def describe(scene: Scene, rng: random.Random) -> list[Sentence]:
    """Five different sentences; two mention every object, the others some of them.

    Few say where objects are: the captioner writes from one feature of the whole image, which
    hardly tells.
    """
    writers: list[Callable[[_Speaker], Sentence]] = [
        _Speaker.everything,
        _Speaker.everything,
        _Speaker.relation,
        _Speaker.main,
        rng.choice([_Speaker.places, _Speaker.comparison, _Speaker.relation]),
    ]
    speaker = _Speaker(scene, rng)
    sentences: list[Sentence] = []
    for write in writers:
        sentence = write(speaker)
        while sentence in sentences:
            sentence = write(speaker)
        sentences.append(sentence)
    return sentences


class _Speaker:
    """Generates random sentences about one scene."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene = scene
        self.rng = rng

    def everything(self) -> Sentence:
        things = list(range(len(self.scene.things)))
        if len(things) == 2 and self.rng.random() < 0.5:
            return [*self._related(*things), *self._on_ground()]
        return [*self._opening(), *self._list(things), *self._on_ground()]

    def relation(self) -> Sentence:
        """Where one object is relative to another."""
        if len(self.scene.things) == 1:
            return self.places()
        ground = self._on_ground() if self.rng.random() < 0.4 else []
        return [*self._related(*self._some(2)), *ground]

    def places(self) -> Sentence:
        """Where one or two objects are in the picture."""
        pieces: Sentence = []
        some = self._some(2)
        for i in some:
            place = self._place(self.scene.things[i].box)
            pieces += ["and"] * bool(pieces) + [self._thing(i), place]
        return [*self._opening(), *pieces, *(self._on_ground() if len(some) == 1 else [])]

    def comparison(self) -> Sentence:
        """Which of two objects is larger."""
        larges = [i for i, thing in enumerate(self.scene.things) if thing.large]
        smalls = [i for i, thing in enumerate(self.scene.things) if not thing.large]
        if not larges or not smalls:
            return self.relation()
        large = self._thing(self.rng.choice(larges), sized=False)
        small = self._thing(self.rng.choice(smalls), sized=False)
        if self.rng.random() < 0.5:
            return [small, "is smaller than", large]
        return [large, self.rng.choice(["is larger than", "is bigger than"]), small]

    def main(self) -> Sentence:
        """The first object and the background."""
        return [*self._opening(), self._thing(0), *self._on_ground()]

    def _some(self, count: int) -> list[int]:
        return self.rng.sample(range(len(self.scene.things)), min(count, len(self.scene.things)))

    def _opening(self) -> Sentence:
        return self.rng.choice([[], [], ["there is"], ["a picture of"], ["this is"]])

    def _list(self, things: list[int]) -> Sentence:
        """As in: a red ball , a blue star and a green tree."""
        pieces: Sentence = [self._thing(things[0])]
        for i in things[1:-1]:
            pieces += [",", self._thing(i)]
        return [*pieces, "and", self._thing(things[-1])] if len(things) > 1 else pieces

    def _related(self, a: int, b: int) -> Sentence:
        relation = self._relation(self.scene.things[a].box, self.scene.things[b].box)
        return [self._thing(a), *["is"] * (self.rng.random() < 0.3), relation, self._thing(b)]

    def _thing(self, i: int, *, sized: bool = True) -> Phrase:
        thing: Thing = self.scene.things[i]
        words = [thing.colour, self.rng.choice(NOUNS[thing.shape])]
        if sized and self.rng.random() < 0.7:
            words.insert(0, self.rng.choice(LARGE if thing.large else SMALL))
        return Phrase(_with_article(words), i)

    def _on_ground(self) -> Sentence:
        pattern = [self.rng.choice(PATTERNS[self.scene.pattern])] * (self.rng.random() < 0.8)
        words = [*pattern, self.scene.colour]
        self.rng.shuffle(words)
        on = self.rng.choice(["on", "on", "in front of", "against"])
        return [on, Phrase(_with_article([*words, "background"]), None)]

    def _place(self, box: Box) -> str:
        x = (box[0] + box[2]) / 2 / self.scene.width
        y = (box[1] + box[3]) / 2 / self.scene.height
        side = "left" if x < 0.38 else "right" if x > 0.62 else ""
        level = "top" if y < 0.38 else "bottom" if y > 0.62 else ""
        if side and level:
            return f"in the {level} {side} corner"
        if side:
            return self.rng.choice([f"on the {side}", f"on the {side} side"])
        return f"at the {level}" if level else self.rng.choice(["in the middle", "in the center"])

    def _relation(self, a: Box, b: Box) -> str:
        """Where box a is relative to b, along the axis on which they are further apart."""
        across = max(b[0] - a[2], a[0] - b[2])
        down = max(b[1] - a[3], a[1] - b[3])
        if across >= down:
            side = "left" if a[0] < b[0] else "right"
            near = ["next to", "beside"] if across < 0.2 * self.scene.width and down < 0 else []
            return self.rng.choice([f"to the {side} of", f"{side} of", *near])
        return self.rng.choice(["above", "over"] if a[1] < b[1] else ["below", "under"])


def _with_article(words: list[str]) -> str:
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])
