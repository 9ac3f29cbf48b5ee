"""The caption model (section 5 of the paper): `model` learns from sentences, `beam` writes them."""

from vsa_ray.mrnn.beam import Caption, beam_search
from vsa_ray.mrnn.model import CaptionerConfig, MultimodalRNN

__all__ = ["Caption", "CaptionerConfig", "MultimodalRNN", "beam_search"]
