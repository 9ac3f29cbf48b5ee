"""Caption every image of a corpus: one sentence for the image, and one for each of its regions.

    python -m jobs.caption_corpus --images s3://photos/2026 --mrnn s3://runs/mrnn --out s3://captions

Starts from images, or from a regions table (--regions-table). The images are a folder, a list, tar
files or a table: see vsa_ray/listing.py. An unreadable image becomes a row with the reason. Run the
same command again to resume a killed job; the result is the same: one row per image.
OUT/_summary.json reports counts, failures and speed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from jobs import detect_regions
from jobs.launch import launch, log_written, require_model, require_table
from jobs.settings import recipe
from vsa_ray import datasets, inputs, listing, storage, tracking
from vsa_ray.captions import READ, CaptionConfig, CaptionRegions
from vsa_ray.config import ConfigError
from vsa_ray.datasets import Stage
from vsa_ray.images import ImageConfig
from vsa_ray.outputs import TableOutput, origin
from vsa_ray.regions import RegionConfig, learned_from, made_with
from vsa_ray.table_files import Written
from vsa_ray.tracking import Run

logger = logging.getLogger("jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    images: str = ""
    """The images: a folder or s3:// prefix with images at any depth, a list of URIs (.txt, .csv,
    .parquet), a tar file or a folder of them, Parquet files that contain the images, or an images
    table of jobs.read_corpus."""

    regions_table: str = ""
    """A table made by jobs.detect_regions, to caption its regions instead of --images."""

    mrnn: str
    """The model, made by jobs.train_mrnn. Regions of --images are extracted with the settings it
    was trained on, except for settings given here."""

    out: str
    """Where the captions table goes: a folder, or s3://bucket/prefix."""

    format: Literal["parquet", "jsonl"] = "parquet"
    """Format of its files; "jsonl" is one JSON object per line."""

    loading: ImageConfig = field(default_factory=ImageConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    batch_size: int = 32
    """Images that are loaded and processed together. A larger batch needs more memory."""

    num_actors: int = 0
    """Processes per model. 0 means one per GPU, or one per CPU if there is no GPU."""

    max_error_rate: float = 0.5
    """Stop the job when a larger share of the images than this fails; 1 never stops it."""

    retry_failed: bool = False
    """Retry the failed rows of a finished table, for example once access is no longer denied. An
    unfinished table is simply resumed."""

    def check(self) -> None:
        detect_regions.check_batch(self.batch_size, self.num_actors, self.max_error_rate)
        if bool(self.images) == bool(self.regions_table):
            raise ConfigError("give either --images or --regions-table")
        if self.images:
            detect_regions.check_images(self.images)
        else:
            require_table(self.regions_table, "--regions-table")
        require_model(self.mrnn, "--mrnn", "MultimodalRNN", self.regions_table)
        if self.images:
            self.regions.check()
        else:
            _require_alike(self)

    def inherited(self) -> Self:
        """With the region settings that the model was trained on. From Python, call it explicitly
        if you want that: `main` uses `regions` as it is."""
        if not self.images:
            return self
        require_model(self.mrnn, "--mrnn", "MultimodalRNN")
        return replace(self, regions=replace(self.regions, **learned_from(self.mrnn)))


def main(config: JobConfig, parent: Run | None = None) -> Written:
    output = _output(config)
    if config.retry_failed and (failed := output.reopen()):
        logger.info("%s: retrying %d failed rows", config.out, failed)
    written = output.finished()
    if written is None:
        output.begin()
        with tracking.run("caption_corpus", output.made_from, parent=parent) as run:
            written = datasets.make_table(
                _inputs(config),
                _stages(config),
                output,
                batch_size=config.batch_size,
                log=run.metrics,
            )
    log_written(config.out, written)
    return written


def _output(config: JobConfig) -> TableOutput:
    sources = {"mrnn": config.mrnn, "images": config.images, "regions_table": config.regions_table}
    settings: dict[str, Any] = {"captions": config.captions}
    if config.images:
        settings |= {"loading": config.loading, "regions": config.regions}
    made_from = origin("caption_corpus", sources, **settings)
    return TableOutput(
        uri=config.out,
        made_from=made_from | {"format": config.format},
        format=config.format,
        max_error_rate=config.max_error_rate,
    )


def _require_alike(config: JobConfig) -> None:
    """Raise ConfigError for features of another backbone, even if they have the same width."""
    learned, made = learned_from(config.mrnn), made_with(config.regions_table)
    for name in ("backbone", "maps", "image_side"):
        if name in learned and name in made and learned[name] != made[name]:
            raise ConfigError(
                f"--regions-table {config.regions_table} was made with {name} {made[name]}, but "
                f"--mrnn {config.mrnn} was trained on {learned[name]}; use matching regions"
            )


def _inputs(config: JobConfig) -> inputs.Inputs:
    if config.images:
        return listing.list_images(config.images, config.out, datasets.each)
    return inputs.of_table(config.regions_table, READ)


def _stages(config: JobConfig) -> list[Stage]:
    models = 2 if config.images else 1
    write = Stage(
        mapper=CaptionRegions,
        args=(config.captions, storage.absolute(config.mrnn)),
        **datasets.model_workers(config.num_actors, stages=models),
    )
    if not config.images:
        return [write]
    logger.info("extracting regions with %s", " ".join(_flags(config.regions)))
    return [*detect_regions.stages(config, models=models), write]


def _flags(regions: RegionConfig) -> Iterator[str]:
    """The detector, and all settings that differ from their defaults, as flags."""
    for name, value in asdict(regions).items():
        if name == "detector" or value != getattr(RegionConfig(), name):
            yield f"--regions.{name.replace('_', '-')} {value}"


def is_finished(config: JobConfig) -> bool:
    """Whether there is nothing to do."""
    return not config.retry_failed and _output(config).finished() is not None


if __name__ == "__main__":
    launch(main, JobConfig, __doc__, finished=is_finished, recipe=recipe())
