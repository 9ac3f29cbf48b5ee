"""Describe every image of a corpus: a sentence for the image, and one for each of its regions.

    python -m jobs.caption_corpus --images s3://photos/2026 --mrnn s3://runs/mrnn --out s3://captions

Goes from images straight to captions, or from a regions table (--regions-table). An image that
cannot be read becomes a row that says why. A job that is killed goes on when started again, and the
result is the same: one row an image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobs import detect_regions
from jobs.launch import launch, log_written, require_model, require_table
from vsa_ray import datasets, schema, storage, tracking
from vsa_ray.captions import CaptionConfig, CaptionRegions
from vsa_ray.config import ConfigError
from vsa_ray.datasets import Stage
from vsa_ray.images import ImageConfig
from vsa_ray.outputs import TableOutput, Written, origin
from vsa_ray.regions import RegionConfig
from vsa_ray.tracking import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    images: str = ""
    """An images table (see jobs.read_corpus), or a folder or s3:// prefix of images."""

    regions_table: str = ""
    """Made by jobs.detect_regions: caption these instead of --images."""

    mrnn: str
    """Made by jobs.train_mrnn. Regions have to be made as those that it learned from."""

    out: str
    """Where the captions table goes."""

    loading: ImageConfig = field(default_factory=ImageConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    batch_size: int = 16
    """Images that a model sees at once."""

    num_actors: int = 0
    """Processes that hold each model; 0 is one a GPU, or else one a CPU."""

    def check(self) -> None:
        if bool(self.images) == bool(self.regions_table):
            raise ConfigError("give either --images or --regions-table")
        if self.images:
            if not storage.exists(self.images):
                raise ConfigError(f"--images {self.images} does not exist")
            self.regions.check()
        else:
            require_table(self.regions_table, "--regions-table")
        require_model(self.mrnn, "--mrnn")


def main(config: JobConfig, parent: Run | None = None) -> Written:
    inputs = {"mrnn": config.mrnn, "images": config.images, "regions_table": config.regions_table}
    settings: dict[str, Any] = {"captions": config.captions}
    if config.images:
        settings |= {"loading": config.loading, "regions": config.regions}
        images = detect_regions.images_of(config.images)
        source, stages = datasets.from_table(images), detect_regions.stages(config, models=2)
    else:
        images = storage.read_table(config.regions_table, schema.REGIONS, columns=["image_id"])
        source, stages = datasets.read(config.regions_table), []
    write = Stage(
        mapper=CaptionRegions,
        args=(config.captions, storage.absolute(config.mrnn)),
        batch_size=config.batch_size,
        **datasets.model_workers(config.num_actors, stages=2 if config.images else 1),
    )
    made_from = origin("caption_corpus", inputs, **settings)
    output = TableOutput(uri=config.out, made_from=made_from)
    with tracking.run("caption_corpus", made_from, parent=parent) as run:
        written = datasets.make_table(source, [*stages, write], output, rows=len(images))
        run.metrics({f"images/{status}": n for status, n in written.by_status.items()})
    log_written(config.out, written)
    return written


if __name__ == "__main__":
    launch(main, JobConfig, __doc__)
