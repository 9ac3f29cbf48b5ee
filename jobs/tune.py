"""Search for the margin, embedding size and learning rate of the alignment.

    python -m jobs.tune --regions RUN/regions --sentences RUN/sentences --out RUN/tune \\
        --config jobs/configs/flickr8k.yaml

Each trial is a separate training; all other settings are those given, here those of a recipe.
Writes OUT/trials.json, best first, and OUT/best.yaml, a --config for jobs.train_alignment. Run the
same command again to resume a killed search; with other settings it refuses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jobs import train_alignment
from jobs.launch import launch
from jobs.settings import recipe
from vsa_ray import storage, tracking
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.config import ConfigError, to_yaml
from vsa_ray.outputs import Output, origin
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.config import TrainConfig
from vsa_ray.training.loop import TrainContext
from vsa_ray.training.tasks import Metrics
from vsa_ray.tuning import SEARCHED, SearchConfig, Settings, Trial, search, short
from vsa_ray.vocabulary import VocabularyConfig

logger = logging.getLogger("jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    regions: str
    """The regions table, made by jobs.detect_regions."""

    sentences: str
    """The sentences table, made by jobs.read_corpus; it needs train and dev splits."""

    out: str
    """Where the results of the search and the models of all trials go: a folder, or
    s3://bucket/prefix."""

    search: SearchConfig = field(default_factory=SearchConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        if self.search.grace_epochs > self.training.epochs:
            raise ConfigError(
                f"--search.grace-epochs {self.search.grace_epochs} is more than "
                f"--training.epochs {self.training.epochs}; make it smaller"
            )
        self.training_with({}, "").check()

    def training_with(self, settings: Settings, name: str) -> train_alignment.JobConfig:
        """The config of one trial's training."""
        model = {key: settings[key] for key in ("margin", "embed_dim") if key in settings}
        steps = {key: settings[key] for key in ("learning_rate",) if key in settings}
        return train_alignment.JobConfig(
            regions=storage.absolute(self.regions),
            sentences=storage.absolute(self.sentences),
            out=storage.join(storage.absolute(self.out), name),
            vocabulary=self.vocabulary,
            alignment=replace(self.alignment, **model),
            training=replace(self.training, **steps),
        )


def main(config: JobConfig) -> list[dict[str, Any]]:
    inputs = {"regions": config.regions, "sentences": config.sentences}
    names = ("search", "vocabulary", "alignment", "training")
    made_from = origin("tune", inputs, **{name: getattr(config, name) for name in names})
    output = Output(uri=config.out, made_from=made_from)
    if done := output.committed():
        logger.info("the search is already done; see %s/trials.json", config.out)
        return list(done["trials"])
    # Wrong inputs should fail once and claim no output, rather than fail in every trial.
    train_alignment.prepare(config.training_with({}, ""))
    output.begin()
    has_margin = config.alignment.loss != "softmax"
    with tracking.run("tune", asdict(config)) as parent:

        def trial(settings: Settings, callbacks: list[Any]) -> Metrics:
            name = "-".join(f"{key}={settings[key]:.4g}" for key in sorted(settings))
            training = replace(config.training_with(settings, name), resume=True)
            context = TrainContext(callbacks=callbacks, at_once=config.search.concurrent_trials)
            return train_alignment.main(training, parent, context=context)

        trials = search(
            trial,
            config.search,
            config.out,
            searched=[name for name in SEARCHED if name != "margin" or has_margin],
            score=AlignmentTask.score,
            epochs=config.training.epochs,
        )
        parent.metrics({"best/score": trials[0].score})
    best = config.training_with(trials[0].settings, "best")
    table = [asdict(found) for found in trials]
    storage.write_json(storage.join(config.out, "trials.json"), table)
    storage.write_bytes(storage.join(config.out, "best.yaml"), to_yaml(best).encode())
    output.commit(trials=table)
    for found in trials:
        logger.info("%6.2f after %d epochs: %s", found.score, found.epochs, short(found.settings))
    logger.info("train the best: python -m jobs.train_alignment --config %s/best.yaml", config.out)
    logger.info("or run a pipeline: python -m jobs.pipeline %s", " ".join(_flags(trials[0])))
    return table


def _flags(trial: Trial) -> Iterator[str]:
    """The settings as flags of jobs.pipeline."""
    for name, value in trial.settings.items():
        group = "alignment-training" if name == "learning_rate" else "alignment"
        yield f"--{group}.{name.replace('_', '-')} {value:.6g}"


if __name__ == "__main__":
    launch(main, JobConfig, __doc__, recipe=recipe("alignment_training"))
