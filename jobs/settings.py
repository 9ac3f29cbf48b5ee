"""What all stages are made with: what jobs.pipeline and jobs.reproduce have in common.

A file of these settings is a recipe, such as those in jobs/configs. The job of a single stage reads
it too, and takes what is its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vsa_ray.alignment import AlignmentConfig
from vsa_ray.captions import CaptionConfig
from vsa_ray.config import Recipe, names
from vsa_ray.corpora import ReaderConfig
from vsa_ray.images import ImageConfig
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.regions import RegionConfig
from vsa_ray.snippets import SnippetConfig
from vsa_ray.training.config import TrainConfig
from vsa_ray.vocabulary import VocabularyConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """Which layout the corpus has, and which of its images are read."""

    loading: ImageConfig = field(default_factory=ImageConfig)
    """How image files are read and decoded."""

    regions: RegionConfig = field(default_factory=RegionConfig)
    """How boxes are found in images and described by a CNN."""

    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """Which words both models know."""

    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """The model that aligns words with regions: its sizes, its score and its loss."""

    alignment_training: TrainConfig = field(default_factory=TrainConfig)
    """How the alignment model trains."""

    snippets: SnippetConfig = field(default_factory=SnippetConfig)
    """How sentences are cut into pieces, each on a region."""

    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    """The model that writes: its kind and its sizes."""

    captioner_training: TrainConfig = field(default_factory=TrainConfig)
    """How the model that writes trains."""

    captions: CaptionConfig = field(default_factory=CaptionConfig)
    """How the trained model writes its sentences."""


PATHS = frozenset({"corpus", "data", "out", "results"})
"""Of jobs.pipeline and jobs.reproduce. A stage's `out` is another place than theirs."""

OTHERS = frozenset({"learn_from", "gallery_images", "seeds", "other_losses", "at_once"})
"""What these jobs have beside `Settings`. The first two mean the same in a stage's job."""


def recipe(training: str = "") -> Recipe:
    """How the job of a single stage reads a recipe.

    Args:
        training: the group of `Settings` that is `training` in that job, if it trains.
    """
    return Recipe(
        names=frozenset(names(Settings)) | PATHS | OTHERS,
        elsewhere=PATHS,
        groups={training: "training"} if training else {},
    )
