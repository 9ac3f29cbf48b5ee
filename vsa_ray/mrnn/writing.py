"""Captions as text, for features of images or regions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from vsa_ray.mrnn.beam import beam_search
from vsa_ray.mrnn.model import MultimodalRNN
from vsa_ray.vocabulary import Vocabulary


def write_captions(
    model: MultimodalRNN,
    vocabulary: Vocabulary,
    features_BF: npt.NDArray[np.generic],
    *,
    beam_size: int,
    max_words: int = 20,
) -> list[tuple[str, float]]:
    """Decode a sentence, with its log-probability, for each feature."""
    features = torch.from_numpy(features_BF).to(model.mean_F.device)
    captions = beam_search(model, features, beam_size=beam_size, max_words=max_words)
    return [(" ".join(vocabulary.decode(caption.ids)), caption.log_prob) for caption in captions]
