"""Read a corpus of any layout into tables: images, sentences and, where people drew boxes, phrases.

python -m jobs.read_corpus --corpus s3://corpora/flickr8k --out s3://runs/flickr8k
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from jobs.launch import launch
from vsa_ray import storage
from vsa_ray.config import ConfigError
from vsa_ray.corpora import Corpus, ReaderConfig, read_corpus
from vsa_ray.outputs import Output, origin

logger = logging.getLogger("jobs")

TABLES = ("images", "sentences", "phrases")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    corpus: str
    """Where the corpus is: a folder, or s3://bucket/prefix."""

    out: str
    """The tables become OUT/images, OUT/sentences and OUT/phrases."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def check(self) -> None:
        if not storage.is_directory(self.corpus) and not storage.exists(self.corpus):
            raise ConfigError(f"--corpus {self.corpus} does not exist")


def main(config: JobConfig) -> None:
    inputs = {"corpus": config.corpus}
    outputs = {
        name: Output(
            uri=storage.join(config.out, name),
            made_from=origin("read_corpus", inputs, reader=config.reader),
        )
        for name in TABLES
    }
    if all(output.committed() for output in outputs.values()):
        logger.info("the corpus has been read before")
        return
    try:
        corpus = read_corpus(config.corpus, config.reader)
    except ValueError as error:  # nothing that could be read as a corpus
        raise ConfigError(str(error)) from error
    _report(corpus)
    for name, output in outputs.items():
        output.begin()
        table = getattr(corpus, name)
        storage.write_table(output.uri, table)
        output.commit(rows=len(table))


def _report(corpus: Corpus) -> None:
    splits = corpus.images["split"].value_counts().to_pylist()
    images = ", ".join(f"{s['counts']:,} {s['values'] or 'in no split'}" for s in splits)
    logger.info("images by split: %s", images)


if __name__ == "__main__":
    launch(main, JobConfig, __doc__, needs_ray=False)
