"""The caption model (section 5 of the paper).

model.py    the model and its loss
beam.py     beam search, in word ids
writing.py  captions as text
"""

from vsa_ray.mrnn.beam import Caption, beam_search
from vsa_ray.mrnn.model import CaptionerConfig, MultimodalRNN
from vsa_ray.mrnn.writing import write_captions

__all__ = ["Caption", "CaptionerConfig", "MultimodalRNN", "beam_search", "write_captions"]
