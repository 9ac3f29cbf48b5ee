"""Corpora in any supported layout, at any URI, as tables; and generated corpora for trial runs.

layouts.py     lists the files below a URI and recognises their layout
readers.py     Flickr8k/30k, COCO, Karpathy's JSON, CSV, an image folder ─▶ contents of the corpus
entities.py    Flickr30k Entities ─▶ phrases and their boxes
corpus.py      both ─▶ images, sentences, phrases
scenes.py      writes generated pictures, sentences and boxes in Flickr30k's layout, from
               scene_plans.py (what is where), scene_pictures.py and scene_sentences.py
"""

from vsa_ray.corpora.corpus import Corpus, ReaderConfig, read_corpus
from vsa_ray.corpora.scenes import SceneConfig, generate_scenes

__all__ = ["Corpus", "ReaderConfig", "SceneConfig", "generate_scenes", "read_corpus"]
