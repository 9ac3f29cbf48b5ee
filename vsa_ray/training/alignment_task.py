"""Training of the alignment model: images and sentences that rank each other first."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vsa_ray import batches, evaluation, metrics, schema, storage
from vsa_ray.alignment import (
    AlignmentConfig,
    AlignmentModel,
    Detected,
    LabelWords,
    distillation_loss,
    image_sentence_scores,
    ranking_loss,
)
from vsa_ray.alignment.distillation import prior
from vsa_ray.batches import Ragged
from vsa_ray.checkpoints import Aligner
from vsa_ray.training import gathering
from vsa_ray.training.moments import Moments
from vsa_ray.training.tasks import SPREAD, Metrics, Pair
from vsa_ray.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignmentTask:
    """Images and their sentences learn to rank each other first (Eqs. 1-9).

    If `config.distillation` is not 0, words also learn to choose the detector's regions.
    """

    score: ClassVar[str] = "dev/mean_recall"

    config: AlignmentConfig
    vocabulary: Vocabulary
    moments: Moments
    regions: str
    sentences: str

    labels: LabelWords | None = None
    """Needed for distillation."""

    def build(self) -> AlignmentModel:
        model = AlignmentModel(
            self.config,
            feature_dim=len(self.moments.mean_F),
            vocabulary_size=len(self.vocabulary),
        )
        model.standardise(*self.moments.tensors())
        return model

    def batch(self, images: pa.Table, *, epoch: int, seed: int) -> Pair:
        """One sentence per image, drawn at random in every epoch."""
        drawn = []
        columns = images["image_id"].to_pylist(), images["texts"].to_pylist()
        for image_id, texts in zip(*columns, strict=True):
            text = random.Random(f"{seed} {epoch} {image_id}").choice(texts)
            drawn.append(self.vocabulary.encode(text))
        words = Ragged.of(drawn)
        features = batches.features(images, with_detections=self.config.detections)
        seen = batches.seen(features, self.config.regions)
        detected = self._detected(images, words) if self.config.distillation else None
        return Pair(seen, words, detected)

    def _detected(self, images: pa.Table, words: Ragged) -> Detected:
        assert self.labels is not None, "distillation needs classes"
        lengths = torch.tensor([len(labels) for labels in images["labels"].to_pylist()])
        found_P6 = torch.from_numpy(batches.detections(images))
        prior_P = prior(found_P6[:, batches.LOG_CONFIDENCE], found_P6[:, batches.LOG_AREA], lengths)
        columns = self.labels.columns(images["labels"].combine_chunks().flatten().to_pylist())
        return Detected(
            prior_P=batches.seen(Ragged(prior_P, lengths), self.config.regions).rows,
            class_P=batches.seen(
                Ragged(torch.from_numpy(columns), lengths), self.config.regions
            ).rows,
            evidence_WL=torch.from_numpy(self.labels.evidence_VL)[words.rows],
        )

    def loss(self, model: AlignmentModel, batch: Pair) -> Tensor:
        """This worker's share of the loss of the global batch (Eq. 9)."""
        exchange = gathering.Exchange(batch.words.lengths)
        own_WD = model.encode_words(batch.words.rows, batch.words.lengths)
        exchange.send(own_WD)
        # Words are exchanged while regions are encoded, and so are gradients in the backward pass.
        regions_PD = model.encode_regions(batch.features.rows)
        words, first = exchange.receive()
        scores_BC = image_sentence_scores(
            regions_PD,
            batch.features.lengths,
            words.rows,
            words.lengths,
            score=self.config.score,
        )
        share = ranking_loss(scores_BC, first, self.config, gather=gathering.gather)
        if batch.detected is None:
            return share
        taught = distillation_loss(
            regions_PD, batch.features.lengths, own_WD, batch.words.lengths, batch.detected
        )
        return share + self.config.distillation * taught / len(words.rows)

    def dev(self) -> tuple[pa.Table, pa.Table]:
        """Regions and sentences."""
        return (
            storage.read_table(self.regions, schema.REGIONS, split="dev"),
            storage.read_table(self.sentences, schema.SENTENCES, split="dev"),
        )

    def evaluate(self, model: AlignmentModel, dev: tuple[pa.Table, pa.Table]) -> Metrics:
        data = evaluation.pairs(*dev, Aligner(model, self.vocabulary))
        scores_BC = evaluation.retrieval_scores(model, data)
        found = {
            "annotation": metrics.image_annotation(scores_BC, data.image_of_C),
            "search": metrics.image_search(scores_BC, data.image_of_C),
        }
        spread = float(np.std(scores_BC) / max(1e-30, np.abs(scores_BC).max()))
        recalls = [recall for m in found.values() for recall in (m.r1, m.r5, m.r10)]
        result = {"dev/mean_recall": sum(recalls) / len(recalls), SPREAD: spread}
        for direction, recall in found.items():
            result[f"dev/{direction}_r10"] = recall.r10
            result[f"dev/{direction}_median_rank"] = recall.median_rank
        return result

    def collapsed_loss(self, images: float) -> float | None:
        """See ranking_loss for its value if all scores are equal. With distillation there is no
        fixed value."""
        if self.config.distillation:
            return None
        if self.config.loss == "sum_of_hinges":
            return 2 * (images - 1) * self.config.margin
        if self.config.loss == "hardest_negative":
            return 2 * self.config.margin
        return 2 * math.log(images)

    def advice(self) -> list[str]:
        ways = []
        if self.config.score not in ("cosine", "sentence_cosine"):
            ways.append("alignment.score cosine")
        if self.config.loss != "softmax":
            ways.append("alignment.loss softmax")
        return ways
