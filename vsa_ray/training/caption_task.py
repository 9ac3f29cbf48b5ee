"""Training of the captioner: sentences and snippets, word by word, from the feature of a region."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vsa_ray import batches, metrics, schema, storage
from vsa_ray.batches import Ragged
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN, write_captions
from vsa_ray.texts import attach
from vsa_ray.training import gathering
from vsa_ray.training.moments import Moments
from vsa_ray.training.tasks import SPREAD, Metrics, Pair
from vsa_ray.vocabulary import Vocabulary

IMAGES_AT_ONCE = 100
"""Dev images whose texts are scored together."""


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

    def dev(self) -> pa.Table:
        """Images with their texts."""
        regions = storage.read_table(self.regions, schema.REGIONS, split="dev")
        return attach(regions, self.dev_texts)

    def evaluate(self, model: MultimodalRNN, dev: pa.Table) -> Metrics:
        perplexity = self._perplexity(model, dev)
        if not self.has_sentences:
            return {"dev/score": -perplexity, "dev/perplexity": perplexity}
        captions = write_captions(
            model, self.vocabulary, batches.whole_image_features(dev), beam_size=1
        )
        cider = metrics.cider([caption.split() for caption, _ in captions], _sentences(dev))
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
