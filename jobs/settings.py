"""The settings of all stages, shared by jobs.pipeline and jobs.reproduce.

A file of these settings is a recipe, such as those in jobs/configs. Single-stage jobs can read a
recipe too; each takes the settings that apply to it.
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
    """The layout of the corpus, and which of its images are read."""

    loading: ImageConfig = field(default_factory=ImageConfig)
    """How image files are read and decoded."""

    regions: RegionConfig = field(default_factory=RegionConfig)
    """How boxes are found in images and turned into CNN features."""

    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """Which words the models know."""

    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """The model that aligns words with regions: its sizes, score and loss."""

    alignment_training: TrainConfig = field(default_factory=TrainConfig)
    """How the alignment model is trained."""

    snippets: SnippetConfig = field(default_factory=SnippetConfig)
    """How sentences are cut into snippets, each assigned to a region."""

    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    """The captioner: its kind and sizes."""

    captioner_training: TrainConfig = field(default_factory=TrainConfig)
    """How the captioner is trained."""

    captions: CaptionConfig = field(default_factory=CaptionConfig)
    """How the trained captioner decodes captions."""


PATHS = frozenset({"corpus", "data", "out", "results"})
"""Paths of jobs.pipeline and jobs.reproduce. A stage's `out` is not the same as theirs."""

OTHERS = frozenset({"learn_from", "gallery_images", "seeds", "other_losses", "at_once"})
"""Settings of these jobs besides `Settings`. The first two mean the same in single-stage jobs."""


def recipe(training: str = "") -> Recipe:
    """How the job of a single stage reads a recipe.

    Args:
        training: the group of `Settings` that is called `training` in that job, if it trains.
    """
    return Recipe(
        names=frozenset(names(Settings)) | PATHS | OTHERS,
        elsewhere=PATHS,
        groups={training: "training"} if training else {},
    )
