"""Evaluate a run on one split: retrieval, grounding and captions, each with chance or a baseline.

    python -m jobs.evaluate --run s3://runs/flickr8k

Reads the tables and models that jobs.pipeline writes below RUN, and writes RUN/metrics.json and
RUN/gallery/index.html, or, for a split other than test, for example dev, RUN/metrics-dev.json and
RUN/gallery-dev/index.html. A part whose input is missing is null. Runs on one machine, without Ray.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from jobs.launch import launch, require_model, require_table
from jobs.settings import recipe
from vsa_ray import __version__, checkpoints, evaluation, gallery, schema, storage, tracking
from vsa_ray.config import ConfigError, flatten
from vsa_ray.report import render_gallery
from vsa_ray.snippets import SnippetConfig
from vsa_ray.summary import summary_text
from vsa_ray.tracking import Run

logger = logging.getLogger("jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    run: str
    """The --out of jobs.pipeline, or any folder with at least regions/ and sentences/. Whatever
    needs alignment/, phrases/ or captions/ is skipped if they are missing."""

    split: str = "test"
    """The split to measure on: test, or dev while settings are being chosen."""

    snippets: SnippetConfig = field(default_factory=SnippetConfig)
    """How words are assigned to regions in the gallery; detector_weight also affects the measured
    grounding. Settings that are not given are those of RUN/snippets, if it exists."""

    gallery_images: int = 200
    """Maximum number of pictures in the gallery; 0 makes no gallery."""

    def inherited(self) -> Self:
        """With the settings of the run's snippets, if it has any."""
        success = storage.committed(storage.join(self.run, "snippets")) or {}
        made_from = success.get("made_from", {})
        known = [one.name for one in fields(SnippetConfig) if f"snippets.{one.name}" in made_from]
        made = {name: made_from[f"snippets.{name}"] for name in known}
        return replace(self, snippets=replace(self.snippets, **made))

    def check(self) -> None:
        if self.gallery_images < 0:
            raise ConfigError(f"--gallery-images must be >= 0, got {self.gallery_images}")
        regions, alignment = (storage.join(self.run, name) for name in ("regions", "alignment"))
        require_table(regions, "--run: the table")
        require_table(storage.join(self.run, "sentences"), "--run: the table")
        if storage.committed(alignment) is not None:
            require_model(alignment, "--run: the model", "AlignmentModel", regions)
        table = storage.read_table(regions, schema.REGIONS, columns=["split"])
        splits = sorted(split for split in table["split"].unique().to_pylist() if split)
        if self.split not in splits:
            raise ConfigError(
                f"--split {self.split}: no image of {regions} is in it; there are: "
                f"{', '.join(splits) or 'none'}"
            )


@dataclass(frozen=True, slots=True)
class Results:
    """The outputs of a run, in memory; None for a stage that did not run or found nothing."""

    regions: pa.Table
    """Those of the split to measure on."""

    train: Iterator[pa.Table]
    """Regions of the training split, in blocks."""

    sentences: pa.Table
    phrases: pa.Table | None
    captions: pa.Table | None
    aligner: checkpoints.Aligner | None


def main(config: JobConfig, parent: Run | None = None) -> dict[str, Any]:
    results = _load(config.run, config.split)
    # Never put dev numbers where test numbers are expected.
    suffix = "" if config.split == "test" else f"-{config.split}"
    file, page_file = f"metrics{suffix}.json", f"gallery{suffix}/index.html"
    with tracking.run("evaluate", asdict(config), parent=parent) as run:
        metrics = _measure(results, config)
        storage.write_json(storage.join(config.run, file), metrics)
        numbers = {k: v for k, v in flatten(metrics) if isinstance(v, int | float)}
        run.metrics({name.replace(".", "/"): value for name, value in numbers.items()})
        run.text(json.dumps(metrics, indent=2), file)
        if config.gallery_images and results.captions is not None and results.aligner is not None:
            page = _gallery(config, results, metrics)
            storage.write_bytes(storage.join(config.run, page_file), page.encode())
            run.text(page, page_file)
    logger.info("measured on the %s split:\n\n%s\n", config.split, summary_text(metrics))
    return metrics


def _load(run: str, split: str) -> Results:
    def table(name: str, columns: pa.Schema) -> pa.Table | None:
        uri = storage.join(run, name)
        return storage.read_table(uri, columns) if storage.committed(uri) else None

    phrases = table("phrases", schema.PHRASES)
    alignment = storage.join(run, "alignment")
    return Results(
        regions=storage.read_table(storage.join(run, "regions"), schema.REGIONS, split=split),
        train=storage.read_blocks(
            storage.join(run, "regions"),
            schema.REGIONS,
            columns=["image_id", "features", "status"],
            split="train",
        ),
        sentences=storage.read_table(storage.join(run, "sentences"), schema.SENTENCES),
        phrases=phrases if phrases is not None and len(phrases) else None,
        captions=table("captions", schema.CAPTIONS),
        aligner=checkpoints.load_aligner(alignment, checkpoints.best_device())
        if storage.committed(alignment)
        else None,
    )


def _measure(results: Results, config: JobConfig) -> dict[str, Any]:
    """The content of metrics.json."""
    regions, split = results.regions, config.split
    sentences = of_split(results.sentences, split)
    metrics: dict[str, Any] = {"split": split}
    metrics |= {"retrieval": None, "grounding": None, "captions": None}
    if results.aligner is not None and len(sentences):
        data = evaluation.pairs(regions, sentences, results.aligner)
        metrics["retrieval"] = evaluation.retrieval(results.aligner.model, data)
    if results.aligner is not None and results.phrases is not None:
        phrases = of_split(results.phrases, split)
        if len(phrases):
            metrics["grounding"] = evaluation.grounding(
                results.aligner, regions, phrases, config.snippets
            )
    if results.captions is not None and len(sentences):
        metrics["captions"] = evaluation.captioning(
            results.captions, results.regions, results.sentences, results.train
        )
    return metrics


def _gallery(config: JobConfig, results: Results, metrics: dict[str, Any]) -> str:
    assert results.aligner is not None
    shown = results.regions.take(pc.sort_indices(results.regions["image_id"]))
    cards = gallery.gallery_images(
        shown.slice(0, config.gallery_images),
        results.captions,
        of_split(results.sentences, config.split),
        results.aligner,
        config.snippets,
    )
    total = min(len(shown), config.gallery_images)
    return render_gallery(
        # disable=None: no bar in a log file, where each update would be a line.
        tqdm(cards, total=total, desc="gallery", unit="image", disable=None),
        title="Images, regions and words",
        metrics=metrics,
        note=_how(config),
    )


MADE = {
    "regions": ("regions.", ("detector", "max_boxes", "backbone", "maps")),
    "alignment": ("alignment.", ("text", "regions", "score", "loss", "embed_dim")),
    "mrnn": ("captioner.", ("cell", "hidden_dim")),
    "captions": ("captions.", ("beam_size", "max_words")),
}
"""Settings that the gallery's note shows for each output: their group, and their names."""


def _how(config: JobConfig) -> str:
    """The gallery's note on how the results were made, one line per output."""
    lines = [f"Run: {config.run}, split {config.split}"]
    for output, (group, names) in MADE.items():
        success = storage.committed(storage.join(config.run, output)) or {}
        made_from = success.get("made_from", {})
        known = [name for name in names if group + name in made_from]
        said = [f"{name.replace('_', ' ')} {made_from[group + name]}" for name in known]
        if said:
            lines.append(f"{group.removesuffix('.').capitalize()}: {', '.join(said)}")
    cut = config.snippets
    lines.append(f"Words on regions: beta {cut.beta:g}, detector weight {cut.detector_weight:g}")
    return "\n".join([*lines, f"vsa_ray {__version__}"])


def of_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


if __name__ == "__main__":
    launch(main, JobConfig, __doc__, needs_ray=False, recipe=recipe())
