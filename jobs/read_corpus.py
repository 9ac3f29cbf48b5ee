"""Read a corpus in any supported layout into tables: images, sentences and, if given, phrase boxes.

    python -m jobs.read_corpus --corpus s3://corpora/flickr8k --out s3://runs/flickr8k

Malformed lines are counted, logged and skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from jobs.launch import check_splits, launch, require_directory
from jobs.settings import recipe
from vsa_ray import schema, storage
from vsa_ray.corpora import Corpus, ReaderConfig, read_corpus
from vsa_ray.outputs import Output, origin

logger = logging.getLogger("jobs")

TABLES = ("images", "sentences", "phrases")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    corpus: str
    """Folder or s3://bucket/prefix that holds the images and sentences, at any depth."""

    out: str
    """Folder, or s3://bucket/prefix, for the tables OUT/images, OUT/sentences and OUT/phrases."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)

    def check(self) -> None:
        require_directory(self.corpus, "--corpus")


def main(config: JobConfig, *, splits: Sequence[str] = ()) -> None:
    """Write the tables, unless one of the required `splits` has no sentences.

    Raises:
        UserError: nothing there can be read as a corpus, or a split is empty.
    """
    inputs = {"corpus": config.corpus}
    outputs = {
        name: Output(
            uri=storage.join(config.out, name),
            made_from=origin("read_corpus", inputs, reader=config.reader),
        )
        for name in TABLES
    }
    if all(output.committed() for output in outputs.values()):
        logger.info("the corpus is already read")
        table = storage.read_table(outputs["sentences"].uri, schema.SENTENCES, columns=["split"])
        check_splits(table, splits, f"--corpus {config.corpus}")
        return
    corpus = read_corpus(config.corpus, config.reader)
    _report(corpus)
    check_splits(corpus.sentences, splits, f"--corpus {config.corpus}")
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
    launch(main, JobConfig, __doc__, needs_ray=False, recipe=recipe())
