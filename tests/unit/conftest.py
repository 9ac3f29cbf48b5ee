"""A corpus small enough to be read, and models for it.

The features are made to be read too. A region's number `f` says how well the word of id `f` fits
it, and the alignment model takes it at its word: v_i . s_t is the feature of region i at the id of
word t.
"""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from vsa_ray import checkpoints, schema, storage
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.checkpoints import Aligner, Captioner
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN
from vsa_ray.vocabulary import Vocabulary, tokenise

WORDS = ("a", "dog", "ball", "red", "runs")  # ids 1 to 5

BOXES = [[0.0, 0.0, 100.0, 50.0], [0.0, 0.0, 50.0, 50.0], [50.0, 0.0, 100.0, 50.0]]
"""The whole image, its left half, its right half."""

IMAGES: dict[str, tuple[str, list[list[float]]]] = {
    #                   END  a  dog ball red runs
    "dog.jpg": ("train", [[0, 1, 3.0, 0, 0, 2.0], [0, 0, 4.0, 0, 0, 3.0]]),
    "ball.jpg": ("train", [[0, 1, 0, 3.0, 2.0, 0], [0, 0, 0, 4.0, 3.0, 0]]),
    "pair.jpg": ("test", [[0, 1, 1.5, 4.5, 0, 0], [0, 0, 4.0, 0, 0, 3.0], [0, 0, 0, 4.0, 3.0, 0]]),
    "plain.jpg": ("test", [[0, 1, 0.5, 2.0, 0.5, 0]]),
    "broken.jpg": ("test", []),
}
"""Split and features of every image; the one without regions could not be read."""

TEXTS = {
    "dog.jpg": ["A dog runs.", "The dog!"],
    "ball.jpg": ["A red ball."],
    "pair.jpg": ["A dog runs, a red ball.", "Zebra dog zebra"],
    "plain.jpg": ["A ball", "Zebra"],
    "broken.jpg": ["A dog"],
}


@pytest.fixture
def regions() -> pa.Table:
    """REGIONS of five images, one of which is broken."""
    rows = []
    for image_id, (split, features) in IMAGES.items():
        found = len(features)
        rows.append(
            {
                "image_id": image_id,
                "uri": f"/nowhere/{image_id}",
                "split": split,
                "width": 100 if found else 0,
                "height": 50 if found else 0,
                "boxes": BOXES[:found],
                "scores": [1.0, 0.9, 0.8][:found],
                "labels": ["", "dog", "ball"][:found],
                "status": "ok" if found else "unreadable",
                "error": None if found else "not an image",
            }
        )
    features_of = [
        np.array(features, dtype=np.float16).reshape(-1, len(WORDS) + 1)
        for _, features in IMAGES.values()
    ]
    table = pa.Table.from_pylist(rows, schema=schema.REGIONS)
    at = table.schema.names.index("features")
    return table.set_column(at, "features", schema.nested(features_of, pa.float16()))


@pytest.fixture
def sentences() -> pa.Table:
    """SENTENCES of all five images; some words are not in the vocabulary."""
    rows = [
        {
            "sentence_id": f"{image_id}#{number}",
            "image_id": image_id,
            "split": IMAGES[image_id][0],
            "text": text,
            "words": tokenise(text),
        }
        for image_id, texts in TEXTS.items()
        for number, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, schema=schema.SENTENCES)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(WORDS, (5, 4, 3, 2, 1), 5)


@pytest.fixture
def aligner(vocabulary: Vocabulary) -> Aligner:
    """Its v_i . s_t is the feature of region i at the id of word t."""
    size = len(vocabulary)
    config = AlignmentConfig(embed_dim=size, hidden_dim=size, word_dim=size, dropout=0.0)
    model = AlignmentModel(config, feature_dim=size, vocabulary_size=size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.region_layer.weight.copy_(torch.eye(size))
        model.word_vectors.weight.copy_(torch.eye(size))
        model.input_layer.weight.copy_(torch.eye(size))
        model.word_layer.weight.copy_(torch.eye(size) / 2)  # the two directions add up to twice
    return Aligner(model.eval(), vocabulary)


@pytest.fixture
def captioner(vocabulary: Vocabulary) -> Captioner:
    """It has learned nothing, and writes nonsense."""
    torch.manual_seed(0)
    size = len(vocabulary)
    config = CaptionerConfig(hidden_dim=8, word_dim=4, dropout=0.0)
    model = MultimodalRNN(config, feature_dim=size, vocabulary_size=size, log_frequencies_V=None)
    torch.nn.init.normal_(model.output.weight)
    return Captioner(model.eval(), vocabulary)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with its tables, to be copied: making them takes seconds."""
    import mlflow  # as long again, which most tests need not wait for

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def here(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, with an empty MLflow store in it."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR takes many seconds to start."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def run(
    tmp_path: Path, regions: pa.Table, sentences: pa.Table, aligner: Aligner, captioner: Captioner
) -> Path:
    """A directory with finished tables `regions` and `sentences`, models `alignment` and `mrnn`."""
    folder = tmp_path / "run"
    for name, table in {"regions": regions, "sentences": sentences}.items():
        storage.write_table(str(folder / name), table)
        storage.commit(str(folder / name), {"rows": len(table)})
    models: dict[str, Aligner | Captioner] = {"alignment": aligner, "mrnn": captioner}
    for name, trained in models.items():
        checkpoints.save(str(folder / name), trained.model, trained.vocabulary)
        storage.commit(str(folder / name), {"best": {}})
    return folder


@dataclass(frozen=True)
class Ended:
    """How a job went."""

    code: Any
    out: str
    err: str


@pytest.fixture
def start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """`python -m jobs.NAME FLAGS` in this process; exit code "Ray" where Ray would start."""

    def starts() -> None:
        raise SystemExit("Ray")

    def job(name: str, *flags: str) -> Ended:
        monkeypatch.setattr("jobs.launch.start_ray", starts)
        monkeypatch.setattr("sys.argv", [f"jobs/{name}.py", *flags])
        monkeypatch.delitem(sys.modules, f"jobs.{name}", raising=False)  # or runpy warns
        try:
            runpy.run_module(f"jobs.{name}", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            return Ended(stop.code, *capsys.readouterr())
        return Ended(0, *capsys.readouterr())

    return job
