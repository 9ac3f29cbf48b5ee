"""Find the regions of every image: the whole of it and up to 19 boxes, one CNN feature each.

    python -m jobs.detect_regions --images s3://runs/flickr8k/images --out s3://runs/flickr8k/regions

Images that cannot be read become rows that say why. A job that is killed goes on when it is started
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.launch import launch, log_written
from vsa_ray import datasets, schema, storage, tracking
from vsa_ray.config import ConfigError
from vsa_ray.corpora import ReaderConfig, read_corpus
from vsa_ray.datasets import Stage
from vsa_ray.images import ImageConfig, LoadImages
from vsa_ray.outputs import TableOutput, Written, origin
from vsa_ray.regions import DetectRegions, RegionConfig
from vsa_ray.tracking import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    images: str
    """An images table (see jobs.read_corpus), or a folder or s3:// prefix of images."""

    out: str
    """Where the regions table goes."""

    loading: ImageConfig = field(default_factory=ImageConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    batch_size: int = 16
    """Images that a detector sees at once."""

    num_actors: int = 0
    """Processes that hold the models; 0 is one a GPU, or else one a CPU."""

    def check(self) -> None:
        if not storage.exists(self.images):
            raise ConfigError(f"--images {self.images} does not exist")
        if self.batch_size < 1:
            raise ConfigError(f"--batch-size must be >= 1, got {self.batch_size}")
        self.regions.check()


def main(config: JobConfig, parent: Run | None = None) -> Written:
    images = images_of(config.images)
    made_from = origin(
        "detect_regions", {"images": config.images}, loading=config.loading, regions=config.regions
    )
    output = TableOutput(uri=config.out, made_from=made_from)
    with tracking.run("detect_regions", made_from, parent=parent) as run:
        written = datasets.make_table(
            datasets.from_table(images), stages(config), output, rows=len(images)
        )
        run.metrics({f"images/{status}": n for status, n in written.by_status.items()})
    log_written(config.out, written)
    return written


def images_of(uri: str) -> pa.Table:
    """An images table as it is, or the images of a folder as one."""
    if storage.committed(uri) is not None:
        return storage.read_table(uri, schema.IMAGES)
    return read_corpus(uri, ReaderConfig(format="folder")).images


def stages(config: Any, *, models: int = 1) -> list[Stage]:
    """Images to regions. `config` has the fields of this job.

    `models` counts the stages of the whole plan that hold a model.
    """
    return [
        Stage(mapper=LoadImages, args=(config.loading,), batch_size=config.batch_size),
        Stage(
            mapper=DetectRegions,
            args=(config.regions,),
            batch_size=config.batch_size,
            **datasets.model_workers(config.num_actors, stages=models),
        ),
    ]


if __name__ == "__main__":
    launch(main, JobConfig, __doc__)
