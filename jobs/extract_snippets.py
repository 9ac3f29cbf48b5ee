"""Cut every sentence into snippets, each assigned to a region by the chain MRF (exact Viterbi).

    python -m jobs.extract_snippets --regions RUN/regions --sentences RUN/sentences \\
        --alignment RUN/alignment --out RUN/snippets
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from jobs.detect_regions import check_batch
from jobs.launch import launch, log_written, require_model, require_table
from jobs.settings import recipe
from vsa_ray import datasets, inputs, schema, storage, texts, tracking
from vsa_ray.datasets import Stage
from vsa_ray.outputs import TableOutput, origin
from vsa_ray.snippets import ExtractSnippets, SnippetConfig, without_snippets
from vsa_ray.table_files import Written
from vsa_ray.tracking import Run
from vsa_ray.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    regions: str
    """The regions table, made by jobs.detect_regions."""

    sentences: str
    """The sentences table, made by jobs.read_corpus."""

    alignment: str
    """The model, made by jobs.train_alignment."""

    out: str
    """Where the snippets table goes."""

    snippets: SnippetConfig = field(default_factory=SnippetConfig)
    batch_size: int = 64
    """Images whose sentences a process aligns at once."""

    num_actors: int = 0
    """Processes that run the model. 0 means one per GPU, or one per CPU if there is no GPU."""

    def check(self) -> None:
        check_batch(self.batch_size, self.num_actors)
        require_table(self.regions, "--regions")
        require_table(self.sentences, "--sentences")
        require_model(self.alignment, "--alignment", "AlignmentModel", self.regions)


def main(config: JobConfig, parent: Run | None = None) -> Written:
    output = _output(config)
    written = output.finished()
    if written is None:
        output.begin()
        with tracking.run("extract_snippets", output.made_from, parent=parent) as run:
            written = _extract(config, output, run)
            run.metrics({"sentences": written.rows})
    log_written(config.out, written)
    return written


def _output(config: JobConfig) -> TableOutput:
    sources = {name: getattr(config, name) for name in ("regions", "sentences", "alignment")}
    made_from = origin("extract_snippets", sources, snippets=config.snippets)
    return TableOutput(uri=config.out, made_from=made_from)


def _extract(config: JobConfig, output: TableOutput, run: Run) -> Written:
    vocabulary = Vocabulary.load(storage.join(config.alignment, "vocabulary.json"))
    sentences = storage.read_table(config.sentences, schema.SENTENCES)
    by_image = texts.group_by_image(texts.known(texts.of_sentences(sentences), vocabulary))
    regions = storage.read_table(config.regions, schema.REGIONS, columns=["image_id", "status"])
    good = texts.attach(regions, by_image)
    aligner = Stage(
        mapper=AlignTexts,
        args=(config.snippets, storage.absolute(config.alignment), by_image),
        **datasets.model_workers(config.num_actors),
    )
    return datasets.make_table(
        inputs.of_table(config.regions),
        [aligner],
        output,
        batch_size=config.batch_size,
        rows=pc.sum(pc.list_value_length(good["text_ids"])).as_py() or 0,
        log=run.metrics,
    )


class AlignTexts:
    """Stage: a `regions` table in, the snippets of its images' sentences out."""

    def __init__(self, config: SnippetConfig, checkpoint: str, by_image: pa.Table) -> None:
        self._extract = ExtractSnippets(config, checkpoint)
        self._by_image = by_image

    def __call__(self, regions: pa.Table) -> pa.Table:
        images = texts.attach(regions, self._by_image)
        aligned = self._extract(images) if len(images) else schema.SNIPPETS.empty_table()
        return pa.concat_tables([aligned, self._of_crashed(regions)])

    def _of_crashed(self, regions: pa.Table) -> pa.Table:
        """Rows without snippets for the sentences of images that crashed this stage."""
        own = pc.starts_with(pc.coalesce(regions["error"], ""), f"{type(self).__name__}: ")
        crashed = regions.filter(own)
        if not len(crashed):
            return schema.SNIPPETS.empty_table()
        status = pa.array(["ok"] * len(crashed))  # as it was before
        at = crashed.schema.get_field_index("status")
        return without_snippets(
            texts.attach(crashed.set_column(at, "status", status), self._by_image)
        )


if __name__ == "__main__":
    launch(
        main,
        JobConfig,
        __doc__,
        finished=lambda job: _output(job).finished() is not None,
        recipe=recipe(),
    )
