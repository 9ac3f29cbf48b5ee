"""Everything that is measured for one recipe, from its tables and models.

TABLES/sentences phrases regions proposals/regions people/regions
MODELS/seed0/alignment/NAME     for the first seed one per entry of SEES and per other loss; for
                                other seeds only what the headline rows need
MODELS/seed0/captioner/images   and for the first seed captioner/snippets, and the snippets
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import pyarrow as pa

from vsa_ray import checkpoints, schema, storage
from vsa_ray.alignment import LabelWords, label_words
from vsa_ray.alignment.config import Loss
from vsa_ray.batches import Seen
from vsa_ray.captions import CaptionConfig
from vsa_ray.checkpoints import Aligner, Captioner
from vsa_ray.results import grounding, measuring
from vsa_ray.results.grounding import Decoding
from vsa_ray.results.measuring import TOGETHER, Split

SEES: dict[str, Seen] = {"all regions": "all", "boxes": "boxes", "whole image": "whole_image"}
"""Names of alignment models -> their AlignmentConfig.regions."""

GROUNDERS = ("all regions", "boxes")
"""The models that can ground phrases in boxes."""

BEAMS = (7, 1)
"""The paper's two; the first is the headline."""


def of_seed(seed: int, *names: str) -> str:
    """Path of a seed's models below those of the recipe."""
    return "/".join([f"seed{seed}", *names]).replace(" ", "_")


def models_of(choice: Mapping[str, str]) -> tuple[str, ...]:
    """The alignment models that the headline rows need for every seed."""
    best = choice["retrieval"]
    needed = {*(SEES if best == TOGETHER else [best]), choice["grounding"]}
    return tuple(name for name in SEES if name in needed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Paths of a recipe's tables and models; each method measures one part of its results."""

    tables: str
    models: str
    seeds: int
    losses: tuple[Loss, ...]
    """The recipe's own loss, then the others that models were trained with."""

    writing: CaptionConfig
    """How captions are decoded, except for beam sizes (BEAMS)."""

    def choice(self) -> dict[str, str]:
        """The first seed's best retrieval row, and its best model for grounding, on dev."""
        dev = self._split("dev")
        (rows,) = measuring.retrieval_rows([self._aligners(0, tuple(SEES))], dev)
        decoding = self._decode(0, GROUNDERS, dev)
        return {"retrieval": measuring.best_on_dev(rows), "grounding": decoding.model}

    def retrieval(self, choice: Mapping[str, str]) -> list[dict[str, Any]]:
        """Retrieval on test, for every seed."""
        seeds = [
            self._aligners(seed, models_of(choice) if seed else tuple(SEES))
            for seed in range(self.seeds)
        ]
        return measuring.retrieval_rows(seeds, self._split("test"), choice["retrieval"])

    def by_loss(self) -> dict[str, Any]:
        """Retrieval on dev for models trained with different losses."""
        own, *others = self.losses
        names = {own: "all regions", **{loss: loss for loss in others}}
        trained = {loss: self._aligner(0, names[loss]) for loss in get_args(Loss) if loss in names}
        return measuring.loss_rows(trained, self._split("dev"))

    def decoding(self, choice: Mapping[str, str]) -> list[dict[str, Any]]:
        """Choose on dev how phrases are decoded -> the Decoding of every seed."""
        dev, names = self._split("dev"), (choice["grounding"],)
        return [asdict(self._decode(seed, names, dev)) for seed in range(self.seeds)]

    def _decode(self, seed: int, names: Iterable[str], dev: Split) -> Decoding:
        return grounding.choose_decoding(self._aligners(seed, names), self._labels(), dev)

    def _labels(self) -> LabelWords:
        vocabulary = self._aligner(0, GROUNDERS[0]).vocabulary
        sentences = self._table("sentences", schema.SENTENCES, "train")
        return label_words(self._train("labels", "scores"), sentences, vocabulary)

    def grounding(self, chosen: list[Decoding]) -> list[dict[str, Any]]:
        """Grounding on test for every seed, with the baselines that need no alignment."""
        test, proposals = self._split("test"), self._regions("proposals")
        return [
            grounding.grounding_rows(
                self._aligner(seed, own.model), test, proposals, self._labels(), own
            )
            for seed, own in enumerate(chosen)
        ]

    def chain(self, chosen: list[Decoding]) -> list[dict[str, Any]]:
        """Grounding on test over a range of beta."""
        test = self._split("test")
        return [
            grounding.chain_rows(self._aligner(seed, own.model), test, self._labels(), own)
            for seed, own in enumerate(chosen)
        ]

    def captions(self) -> list[dict[str, Any]]:
        """Captions of whole images on test, for every seed."""
        test, sentences = self._split("test"), self._table("sentences", schema.SENTENCES)
        rows: list[dict[str, Any]] = []
        for seed in range(self.seeds):
            captioner = self._captioner(seed, "images")
            of_beam: dict[str, Any] = {}
            for beam_size in BEAMS:
                config = CaptionConfig(beam_size=beam_size, max_words=self.writing.max_words)
                # One nearest neighbour is enough: it is the same for all.
                train = self._train("features", "status") if not rows and not of_beam else iter(())
                of_beam[f"beam {beam_size}"] = measuring.caption_part(
                    captioner, test, sentences, train, config
                )
            rows.append(of_beam)
        rows[0]["nearest neighbour"] = rows[0][f"beam {BEAMS[0]}"]["nearest_neighbour"]
        return rows

    def captions_of_boxes(self, decoding: Decoding) -> dict[str, Any]:
        """Captions of human-drawn boxes on test, for the first seed."""
        uri = storage.join(self.models, of_seed(0, "snippets"))
        snippets = storage.read_table(uri, schema.SNIPPETS, split="train")
        return measuring.box_rows(
            {
                "full-frame model": self._captioner(0, "images"),
                "region-level model": self._captioner(0, "snippets"),
            },
            self._aligner(0, decoding.model),
            self._regions("people"),
            self._table("phrases", schema.PHRASES, "test"),
            snippets,
            self.writing,
        )

    def _aligners(self, seed: int, names: Iterable[str]) -> dict[str, Aligner]:
        return {name: self._aligner(seed, name) for name in names}

    def _aligner(self, seed: int, name: str) -> Aligner:
        uri = storage.join(self.models, of_seed(seed, "alignment", name))
        return checkpoints.load_aligner(uri, checkpoints.best_device())

    def _captioner(self, seed: int, source: str) -> Captioner:
        uri = storage.join(self.models, of_seed(seed, "captioner", source))
        return checkpoints.load_captioner(uri, checkpoints.best_device())

    def _split(self, name: str) -> Split:
        return Split(
            regions=self._table("regions", schema.REGIONS, name),
            sentences=self._table("sentences", schema.SENTENCES, name),
            phrases=self._table("phrases", schema.PHRASES, name),
        )

    def _table(self, name: str, columns: pa.Schema, split: str | None = None) -> pa.Table:
        return storage.read_table(storage.join(self.tables, name), columns, split=split)

    def _regions(self, name: str) -> pa.Table:
        return self._table(f"{name}/regions", schema.REGIONS)

    def _train(self, *columns: str) -> Iterator[pa.Table]:
        """Regions of the training images, in blocks."""
        uri = storage.join(self.tables, "regions")
        names = ["image_id", *columns]
        return storage.read_blocks(uri, schema.REGIONS, columns=names, split="train")
