"""Sentences in words."""

from __future__ import annotations

import pyarrow as pa

from vsa_ray import batches
from vsa_ray.checkpoints import Captioner
from vsa_ray.mrnn import write_captions


def test_captions_are_words(captioner: Captioner, regions: pa.Table) -> None:
    features_BF = batches.whole_image_features(regions.slice(0, 4))
    written = write_captions(
        captioner.model, captioner.vocabulary, features_BF, beam_size=2, max_words=3
    )
    assert len(written) == 4
    for caption, log_prob in written:
        assert 1 <= len(caption.split()) <= 3
        assert set(caption.split()) <= set(captioner.vocabulary.words)
        assert log_prob < 0
