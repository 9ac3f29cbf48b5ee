"""Draw a corpus: pictures of simple scenes, five sentences each, and the box of every phrase.

    python -m jobs.generate_scenes --out runs/scenes --scenes.train 300

The result has the layout of Flickr8k, with boxes as in Flickr30k Entities. `make demo` uses it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from jobs.launch import launch
from vsa_ray.corpora import SceneConfig, generate_scenes

logger = logging.getLogger("jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    out: str
    """Where the corpus goes: a folder, or s3://bucket/prefix."""

    scenes: SceneConfig = field(default_factory=SceneConfig)

    def check(self) -> None:
        """Nothing is read, so there is nothing to check."""


def main(config: JobConfig) -> None:
    logger.info("drawing scenes into %s", config.out)
    generate_scenes(config.out, config.scenes)


if __name__ == "__main__":
    launch(main, JobConfig, __doc__, needs_ray=False)
