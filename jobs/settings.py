"""What all stages are made with: what jobs.pipeline and jobs.reproduce have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from vsa_ray.alignment import AlignmentConfig
from vsa_ray.captions import CaptionConfig
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
