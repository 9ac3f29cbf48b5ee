"""Reproduce every number of docs/results for one recipe, starting from the photographs.

    python -m jobs.reproduce --config jobs/configs/flickr8k.yaml --data DIR \\
        --out runs/flickr8k --results docs/results/flickr8k.json

A recipe is a config of jobs.pipeline. Besides one model of each kind, this job trains what the
tables compare: models that see only the whole image or only the boxes, other losses, a captioner of
boxes; and several seeds of the headline models. All remaining choices are made on dev: which models
to report, on the first seed; how phrases are decoded, separately for each seed. Test is measured
once. Finished parts are skipped: run the same command again to resume. Recipes with the same
regions may share OUT:

    images/ sentences/ phrases/ regions/    as jobs.pipeline makes them
    proposals/ people/                      for the test images: selective search's boxes, and
                                            human-drawn ones
    parts/                                  how long each of these took
    RECIPE/seed0/ RECIPE/seed1/ ...         models and snippets
    RECIPE/parts/                           what was measured, and how long each part took

It writes RESULTS, and a page README.md of all results in the same folder.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, get_args

from jobs import detect_regions, read_corpus
from jobs.launch import launch, require_directory
from jobs.recipe_parts import RecipeParts
from jobs.settings import Settings
from jobs.side_by_side import SideBySide, places
from vsa_ray import (
    datasets,
    evaluation,
    inputs,
    machine,
    messages,
    results,
    schema,
    storage,
    tracking,
)
from vsa_ray.alignment.config import Loss
from vsa_ray.config import ConfigError, to_yaml
from vsa_ray.datasets import Stage
from vsa_ray.images import LoadImages
from vsa_ray.outputs import EXECUTION, Output, TableOutput, origin
from vsa_ray.regions import DescribeBoxes, DetectRegions, RegionConfig
from vsa_ray.results import Parts, Recipe

logger = logging.getLogger("jobs")

CORPUS = "data/flickr8k"
PHRASES = "data/flickr30k_entities"
DETECTOR = "weights/picodet_s/picodet_s_416_coco.onnx"
"""Below `data`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig(Settings):
    data: str
    """The folder that holds data/flickr8k, data/flickr30k_entities and
    weights/picodet_s/picodet_s_416_coco.onnx. These are always used: reader.phrases,
    regions.detector and regions.weights are ignored. So are snippets.beta and
    snippets.detector_weight, which the job chooses on dev."""

    out: str
    """Where tables and models go: a folder, or s3://bucket/prefix."""

    results: str
    """The JSON file to write, named after the recipe: docs/results/flickr8k.json. README.md in the
    same folder becomes the page of all its results."""

    seeds: int = 3
    """How many times the models of the headline rows are trained, with seeds 0, 1, ...; those rows
    are means over the seeds. All other models are trained once."""

    other_losses: bool = True
    """Also train the alignment with each loss that the recipe does not use, to compare the losses
    on dev."""

    at_once: int = field(default=0, metadata=EXECUTION)
    """How many models are trained or measured concurrently. 0 means as many as have a GPU (or a
    CPU, if there is no GPU) for each of their workers, but at most 4."""

    def check(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"--seeds must be >= 1, got {self.seeds}")
        if self.at_once < 0:
            raise ConfigError(f"--at-once must be >= 0, got {self.at_once}")
        if not self.results.endswith(".json"):
            raise ConfigError(f"--results must be a .json file, got {self.results}")
        page = _page(self.results)
        if storage.exists(page) and not storage.read_text(page).startswith(results.TITLE):
            raise ConfigError(
                f"--results {self.results} would overwrite {page}, which is not a page of results; "
                "choose another folder"
            )
        require_directory(storage.join(self.data, CORPUS), "--data: the corpus")
        self.detecting.check()

    @property
    def recipe(self) -> str:
        return PurePosixPath(self.results).stem

    @property
    def detecting(self) -> RegionConfig:
        return replace(self.regions, detector="onnx", weights=storage.join(self.data, DETECTOR))

    def at(self, *names: str) -> str:
        return storage.join(self.out, *names)


def main(config: JobConfig) -> dict[str, Any]:
    # Parts may run in another working directory.
    config = replace(config, data=storage.absolute(config.data), out=storage.absolute(config.out))
    reader = replace(config.reader, phrases="")  # phrases are below `data`
    settings = replace(config, data="", out="", results="", reader=reader)
    made_from = origin("reproduce", {}, recipe=settings)
    Output(uri=config.at(config.recipe), made_from=made_from).begin()
    tables = Parts(config.at("parts"), machine.commit())
    _make_tables(config, tables)
    parts = Parts(config.at(config.recipe, "parts"), machine.commit())
    recipe = Recipe(
        tables=config.out,
        models=config.at(config.recipe),
        seeds=config.seeds,
        losses=(config.alignment.loss, *_other_losses(config)),
        writing=config.captions,
    )
    trainings = (config.alignment_training, config.captioner_training)
    at_once = config.at_once or places(max(training.num_workers for training in trainings))
    with tracking.run("reproduce", made_from) as run, messages.open_queue() as log_queue:
        side_by_side = SideBySide(at_once, log_queue, near=config.out)
        found = asyncio.run(RecipeParts(recipe, config, parts, side_by_side, run).make())
    document = {
        **results.assemble(found),
        "seeds": list(range(config.seeds)),
        "command": _command(config),
        "config": to_yaml(settings),
        "commit": ", ".join(dict.fromkeys(tables.stamps + parts.stamps)),
        "machine": machine.processor(),
        "at_once": at_once,
        "seconds": tables.seconds | parts.seconds,
    }
    storage.write_json(config.results, document)
    page = write_page(config.results)
    logger.info("results: %s and %s", config.results, page)
    return document


def _command(config: JobConfig) -> str:
    """The command that reproduces the results, with placeholders for paths."""
    flags = f"--seeds {config.seeds}" + ("" if config.other_losses else " --other-losses False")
    return (
        f"python -m jobs.reproduce --config jobs/configs/{config.recipe}.yaml --data DIR "
        f"--out OUT --results docs/results/{config.recipe}.json {flags}"
    )


def _make_tables(config: JobConfig, parts: Parts) -> None:
    """The corpus, regions of all images, and two more kinds of regions of the test images."""
    reader = replace(config.reader, phrases="")
    made = {"reader": reader, "loading": config.loading, "regions": config.regions}
    # Recipes share these tables, so they must agree on how they are made.
    inputs = {"data": config.data}
    Output(uri=config.at("parts"), made_from=origin("tables", inputs, **made)).begin()
    reader = replace(reader, phrases=storage.join(config.data, PHRASES))
    read = read_corpus.JobConfig(
        corpus=storage.join(config.data, CORPUS), out=config.out, reader=reader
    )
    parts.make("read corpus", lambda: read_corpus.main(read, splits=("train", "dev", "test")))
    detect = detect_regions.JobConfig(
        images=config.at("images"),
        out=config.at("regions"),
        loading=config.loading,
        regions=config.detecting,
    )
    parts.make("regions", lambda: asdict(detect_regions.main(detect)))
    search = replace(config.regions, detector="selective-search")
    phrases = storage.read_table(config.at("phrases"), schema.PHRASES, split="test")
    boxes, _ = evaluation.region_references(phrases)
    for name, mapper, args in (
        ("proposals", DetectRegions, (search,)),
        ("people", DescribeBoxes, (config.regions, boxes)),
    ):
        stage = Stage(mapper=mapper, args=args, **datasets.model_workers(0))
        parts.make(name, partial(_test_regions, config, name, stage))


def _test_regions(config: JobConfig, name: str, stage: Stage) -> dict[str, Any]:
    """Regions of the test images, made by a stage other than config.regions's detector."""
    images = config.at(name, "images")
    if storage.committed(images) is None:
        test = storage.read_table(config.at("images"), schema.IMAGES, split="test")
        storage.write_table(images, test)
        storage.commit(images, {})
    made_from = origin(name, {"images": images}, loading=config.loading, regions=config.regions)
    output = TableOutput(uri=config.at(name, "regions"), made_from=made_from)
    if (written := output.finished()) is None:
        output.begin()
        load = Stage(mapper=LoadImages, args=(config.loading,))
        written = datasets.make_table(
            inputs.of_table(images, schema.IMAGES.names), [load, stage], output, batch_size=32
        )
    return asdict(written)


def _other_losses(config: JobConfig) -> list[Loss]:
    others = [loss for loss in get_args(Loss) if loss != config.alignment.loss]
    return others if config.other_losses else []


def write_page(file: str) -> str:
    """Write the page of all results in the folder of a results file -> its path."""
    folder = _folder(file)
    files = sorted(name for name in storage.list_files(folder) if name.endswith(".json"))
    # The paper's own recipe comes first.
    files.sort(key=lambda name: not name.endswith("_paper.json"))
    found = {PurePosixPath(name).stem: storage.read_json(name) for name in files}
    found = {name: one for name, one in found.items() if results.is_result(one)}
    page = _page(file)
    storage.write_bytes(page, results.results_page(found).encode())
    return page


def _folder(file: str) -> str:
    return file.rpartition("/")[0] or "."


def _page(file: str) -> str:
    return storage.join(_folder(file), "README.md")


if __name__ == "__main__":
    launch(main, JobConfig, __doc__)
