"""What is trained: the alignment model and the captioner. Independent of Ray.

A task builds its model, makes batches from images with their texts (texts.py), defines the loss of
a batch, and scores the model on the dev split. `loop.train` does the rest.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

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
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN, write_captions
from vsa_ray.texts import attach
from vsa_ray.training import gathering
from vsa_ray.training.moments import Moments
from vsa_ray.vocabulary import Vocabulary

Metrics = dict[str, float]

Model = AlignmentModel | MultimodalRNN

SPREAD = "dev/spread"
"""The metric that is 0 if the model's outputs are the same for all dev images: the deviation of the
scores, relative to the largest, or the number of distinct captions minus one."""

IMAGES_AT_ONCE = 100
"""Dev images whose texts are scored together."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Features and words that belong together, on one device."""

    features: Ragged
    words: Ragged

    detected: Detected | None = None
    """For distillation: what the detector knows about these regions and words."""

    def to(self, device: torch.device) -> Pair:
        detected = self.detected and self.detected.to(device)
        return Pair(self.features.to(device), self.words.to(device), detected)


class Task(Protocol):
    """What a training learns: model, batches, loss and dev score. Plain data, sent to the
    workers."""

    score: ClassVar[str]
    """The dev metric that says which epoch was best; higher is better."""

    @property
    def vocabulary(self) -> Vocabulary: ...
    def build(self) -> Model: ...
    def batch(self, images: pa.Table, *, epoch: int, seed: int) -> Pair: ...
    def loss(self, model: Any, batch: Pair) -> Tensor: ...
    def evaluate(self, model: Any) -> Metrics: ...

    def collapsed_loss(self, images: float) -> float | None:
        """The loss of a collapsed model on a global batch of this many images; None if the loss
        does not show it."""
        ...

    def advice(self) -> list[str]:
        """Settings to try for a collapsed model, other than TrainConfig's."""
        ...


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

    def evaluate(self, model: AlignmentModel) -> Metrics:
        data = evaluation.pairs(
            storage.read_table(self.regions, schema.REGIONS, split="dev"),
            storage.read_table(self.sentences, schema.SENTENCES, split="dev"),
            Aligner(model, self.vocabulary),
        )
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionTask:
    """The words of a text are predicted from its region, one by one (Eqs. 13-15)."""

    score: ClassVar[str] = "dev/score"
    """CIDEr of greedy captions of whole dev images; perplexity would prefer other epochs. Without
    sentences to compare with (trained on snippets only), the negative perplexity."""

    config: CaptionerConfig
    vocabulary: Vocabulary
    moments: Moments
    regions: str
    has_sentences: bool
    """Whether it is trained on whole images, and not only on snippets."""

    dev_texts: pa.Table
    """TEXTS of the dev split, of the kinds that it is trained on."""

    def build(self) -> MultimodalRNN:
        model = MultimodalRNN(
            self.config,
            feature_dim=len(self.moments.mean_F),
            vocabulary_size=len(self.vocabulary),
            log_frequencies_V=torch.from_numpy(self.vocabulary.log_frequencies()),
        )
        model.standardise(*self.moments.tensors())
        return model

    def batch(self, images: pa.Table, *, epoch: int, seed: int) -> Pair:
        """Every text of every image, each with the feature of its region."""
        features = batches.features(images).split()
        at = [torch.tensor(regions) for regions in images["text_regions"].to_pylist()]
        words = [self.vocabulary.encode(t) for texts in images["texts"].to_pylist() for t in texts]
        return Pair(
            Ragged.of(
                [regions_RF[own].numpy() for regions_RF, own in zip(features, at, strict=True)]
            ),
            Ragged.of(words),
        )

    def loss(self, model: MultimodalRNN, batch: Pair) -> Tensor:
        """This worker's share of the mean negative log-likelihood per word of the global batch."""
        losses_B: Tensor = model(batch.features.rows, batch.words.rows, batch.words.lengths)
        tokens = torch.tensor(_tokens(batch), device=losses_B.device)
        return losses_B.sum() / gathering.gather(tokens).sum()

    def evaluate(self, model: MultimodalRNN) -> Metrics:
        regions = storage.read_table(self.regions, schema.REGIONS, split="dev")
        images = attach(regions, self.dev_texts)
        perplexity = self._perplexity(model, images)
        if not self.has_sentences:
            return {"dev/score": -perplexity, "dev/perplexity": perplexity}
        captions = write_captions(
            model, self.vocabulary, batches.whole_image_features(images), beam_size=1
        )
        cider = metrics.cider([caption.split() for caption, _ in captions], _sentences(images))
        different = len({caption for caption, _ in captions}) - 1
        return {
            "dev/score": cider,
            "dev/cider": cider,
            "dev/perplexity": perplexity,
            SPREAD: float(different),
        }

    def collapsed_loss(self, images: float) -> float:
        """The entropy of the word frequencies, the loss at the start of training."""
        logs_V = self.vocabulary.log_frequencies()
        return -float((np.exp(logs_V) * logs_V).sum())

    def advice(self) -> list[str]:
        return ["a lower captioner.dropout"]

    @torch.inference_mode()
    def _perplexity(self, model: MultimodalRNN, images: pa.Table) -> float:
        total, tokens = 0.0, 0
        for start in range(0, len(images), IMAGES_AT_ONCE):
            batch = self.batch(images.slice(start, IMAGES_AT_ONCE), epoch=0, seed=0)
            batch = batch.to(model.mean_F.device)
            total += float(model(batch.features.rows, batch.words.rows, batch.words.lengths).sum())
            tokens += _tokens(batch)
        # The loss of a diverged model would overflow exp; 1e26 is bad enough.
        return math.exp(min(total / tokens, 60.0))


def _sentences(images: pa.Table) -> list[list[list[str]]]:
    """The sentences among each image's texts, which are those of the whole image."""
    columns = images["texts"].to_pylist(), images["text_regions"].to_pylist()
    return [
        [words for words, region in zip(texts, regions, strict=True) if region == 0]
        for texts, regions in zip(*columns, strict=True)
    ]


def _tokens(batch: Pair) -> int:
    """Number of words to predict: all words, and one END per text."""
    return len(batch.words.rows) + len(batch.words.lengths)
