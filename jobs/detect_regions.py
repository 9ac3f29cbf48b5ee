"""Find the regions of every image: the whole image and up to 19 boxes, with a CNN feature each.

    python -m jobs.detect_regions --images s3://runs/flickr8k/images --out s3://runs/flickr8k/regions

The images are a folder, a list, tar files or a table: see vsa_ray/listing.py. Unreadable images
become rows with the reason. Run the same command again to resume a killed job.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from jobs.launch import launch, log_written
from jobs.settings import recipe
from vsa_ray import datasets, listing, storage, tracking
from vsa_ray.config import ConfigError
from vsa_ray.datasets import Stage
from vsa_ray.images import ImageConfig, LoadImages
from vsa_ray.outputs import TableOutput, origin
from vsa_ray.regions import DetectRegions, RegionConfig
from vsa_ray.table_files import Written
from vsa_ray.tracking import Run

logger = logging.getLogger("jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    images: str
    """The images: a folder or s3:// prefix with images at any depth, a list of URIs (.txt, .csv,
    .parquet), a tar file or a folder of them, Parquet files that contain the images, or an images
    table of jobs.read_corpus."""

    out: str
    """Where the regions table goes: a folder, or s3://bucket/prefix."""

    loading: ImageConfig = field(default_factory=ImageConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    batch_size: int = 32
    """Images that are loaded and processed together. A larger batch needs more memory."""

    num_actors: int = 0
    """Processes that run the detector and the backbone. 0 means one per GPU, or one per CPU if
    there is no GPU."""

    max_error_rate: float = 0.5
    """Stop the job when a larger share of the images than this fails; 1 never stops it."""

    retry_failed: bool = False
    """Retry the failed rows of a finished table, for example once access is no longer denied. An
    unfinished table is simply resumed."""

    def check(self) -> None:
        check_batch(self.batch_size, self.num_actors, self.max_error_rate)
        check_images(self.images)
        self.regions.check()


def main(config: JobConfig, parent: Run | None = None) -> Written:
    output = _output(config)
    if config.retry_failed and (failed := output.reopen()):
        logger.info("%s: retrying %d failed rows", config.out, failed)
    written = output.finished()
    if written is None:
        output.begin()
        with tracking.run("detect_regions", output.made_from, parent=parent) as run:
            written = datasets.make_table(
                listing.list_images(config.images, config.out, datasets.each),
                stages(config),
                output,
                batch_size=config.batch_size,
                log=run.metrics,
            )
    log_written(config.out, written)
    return written


def _output(config: JobConfig) -> TableOutput:
    made_from = origin(
        "detect_regions", {"images": config.images}, loading=config.loading, regions=config.regions
    )
    return TableOutput(uri=config.out, made_from=made_from, max_error_rate=config.max_error_rate)


def check_images(uri: str) -> None:
    """Raise ConfigError if there is nothing there that can be listed."""
    if not storage.exists(uri):
        raise ConfigError(f"--images {uri} does not exist")
    try:
        if not listing.is_table(uri):
            listing.kind_of(uri)
    except storage.StorageError as error:
        raise ConfigError(f"--images {error}") from error


def check_batch(batch_size: int, num_actors: int, max_error_rate: float = 1.0) -> None:
    """Raise ConfigError for settings of a batch job that cannot work."""
    if batch_size < 1:
        raise ConfigError(f"--batch-size must be >= 1, got {batch_size}")
    if num_actors < 0:
        raise ConfigError(f"--num-actors must be >= 0, got {num_actors}")
    if not 0 <= max_error_rate <= 1:
        raise ConfigError(f"--max-error-rate must be in [0, 1], got {max_error_rate}")


def stages(config: Any, *, models: int = 1) -> list[Stage]:
    """The stages from images to regions. `config` has the fields of this job's config.

    `models` is the number of stages in the whole plan that hold a model.
    """
    return [
        Stage(mapper=LoadImages, args=(config.loading,)),
        Stage(
            mapper=DetectRegions,
            args=(config.regions,),
            **datasets.model_workers(config.num_actors, stages=models),
        ),
    ]


def is_finished(config: JobConfig) -> bool:
    """Whether there is nothing to do."""
    return not config.retry_failed and _output(config).finished() is not None


if __name__ == "__main__":
    launch(main, JobConfig, __doc__, finished=is_finished, recipe=recipe())
