"""The part of jobs.reproduce after the tables: train a recipe's models and measure them, with
independent parts running concurrently.

    alignments of the first seed > choice > other seeds > retrieval
                                                        > decoding > grounding, chain
                                                                   > snippets > captioner of them
                                 > other losses > losses
    captioners of whole images > captions
    both kinds of captioners > captions of boxes
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal

from jobs import extract_snippets, train_alignment, train_mrnn
from jobs.settings import Settings
from jobs.side_by_side import SideBySide
from vsa_ray import storage
from vsa_ray.results import Decoding, Parts, Recipe
from vsa_ray.results.recipe import SEES, models_of, of_seed
from vsa_ray.tracking import Run
from vsa_ray.training.loop import TrainContext


@dataclass(frozen=True, slots=True)
class RecipeParts:
    """Runs each part as soon as its inputs are ready."""

    recipe: Recipe
    settings: Settings
    parts: Parts
    side_by_side: SideBySide

    run: Run
    """The MLflow run; trainings are nested below it."""

    async def make(self) -> dict[str, Any]:
        """All measurements, as vsa_ray.results.assemble takes them."""
        aligned, captions = await asyncio.gather(self._alignments(), self._captions())
        first = Decoding(**aligned["decoding"][0])
        boxes = await self._part("captions of boxes", partial(self.recipe.captions_of_boxes, first))
        return {**aligned, "captions": captions, "boxes": boxes}

    async def _part(self, name: str, function: Callable[[], Any]) -> Any:
        return await self.parts.make_apart(name, function, self.side_by_side.run)

    async def _alignments(self) -> dict[str, Any]:
        """Train the alignment models, measure them, and train the captioner of boxes."""
        await asyncio.gather(*(self._aligner(0, name) for name in SEES))
        chosen, losses = await asyncio.gather(self._headlines(), self._losses())
        return {**chosen, "losses": losses}

    async def _losses(self) -> Any:
        await asyncio.gather(*(self._aligner(0, loss) for loss in self.recipe.losses[1:]))
        return await self._part("losses", self.recipe.by_loss)

    async def _headlines(self) -> dict[str, Any]:
        """The headline rows: what is best for the first seed, measured for all seeds."""
        recipe = self.recipe
        choice = await self._part("choice", recipe.choice)
        others = product(range(1, recipe.seeds), models_of(choice))
        await asyncio.gather(*(self._aligner(seed, name) for seed, name in others))
        grounded, retrieval = await asyncio.gather(
            self._grounding(choice),
            self._part("retrieval", partial(recipe.retrieval, choice)),
        )
        return {"choice": choice, **grounded, "retrieval": retrieval}

    async def _grounding(self, choice: dict[str, str]) -> dict[str, Any]:
        recipe = self.recipe
        decoding = await self._part("decoding", partial(recipe.decoding, choice))
        chosen = [Decoding(**seed) for seed in decoding]
        _, grounding, chain = await asyncio.gather(
            self._captioner_of_boxes(chosen[0]),
            self._part("grounding", partial(recipe.grounding, chosen)),
            self._part("chain", partial(recipe.chain, chosen)),
        )
        return {"decoding": decoding, "grounding": grounding, "chain": chain}

    async def _captions(self) -> Any:
        """Train the captioners of whole images, and measure them."""
        seeds = range(self.recipe.seeds)
        await asyncio.gather(*(self._captioner(seed, "images") for seed in seeds))
        return await self._part("captions", self.recipe.captions)

    async def _aligner(self, seed: int, name: str) -> None:
        """Train an alignment model; `name` is an entry of SEES, or a loss."""
        own = self.settings.alignment
        kinds = {name: replace(own, regions=seen) for name, seen in SEES.items()}
        kinds |= {loss: replace(own, regions="all", loss=loss) for loss in self.recipe.losses[1:]}
        job = train_alignment.JobConfig(
            regions=self._table("regions"),
            sentences=self._table("sentences"),
            out=self._model(seed, "alignment", name),
            resume=True,
            vocabulary=self.settings.vocabulary,
            alignment=kinds[name],
            training=replace(self.settings.alignment_training, seed=seed),
        )
        await self._train(f"alignment, {name}, seed {seed}", partial(train_alignment.main, job))

    async def _captioner_of_boxes(self, decoding: Decoding) -> None:
        """Train on snippets of the first seed's alignment."""
        chosen = replace(
            self.settings.snippets, beta=decoding.beta, detector_weight=decoding.detector_weight
        )
        job = extract_snippets.JobConfig(
            regions=self._table("regions"),
            sentences=self._table("sentences"),
            alignment=self._model(0, "alignment", decoding.model),
            out=self._snippets,
            snippets=chosen,
        )
        await self._part("snippets", partial(_extract, job))
        await self._captioner(0, "snippets")

    async def _captioner(self, seed: int, source: Literal["images", "snippets"]) -> None:
        job = train_mrnn.JobConfig(
            regions=self._table("regions"),
            sentences=self._table("sentences"),
            snippets=self._snippets if source == "snippets" else "",
            out=self._model(seed, "captioner", source),
            resume=True,
            learn_from=source,
            vocabulary=self.settings.vocabulary,
            captioner=self.settings.captioner,
            training=replace(self.settings.captioner_training, seed=seed),
        )
        await self._train(f"captioner, {source}, seed {seed}", partial(train_mrnn.main, job))

    async def _train(self, name: str, training: Callable[..., Any]) -> None:
        context = TrainContext(at_once=self.side_by_side.at_once)
        await self._part(name, partial(training, self.run, context=context))

    @property
    def _snippets(self) -> str:
        return self._model(0, "snippets")

    def _model(self, seed: int, *names: str) -> str:
        return storage.join(self.recipe.models, of_seed(seed, *names))

    def _table(self, name: str) -> str:
        return storage.join(self.recipe.tables, name)


def _extract(job: extract_snippets.JobConfig) -> dict[str, Any]:
    return asdict(extract_snippets.main(job))
