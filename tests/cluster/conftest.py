"""One Ray for all tests of this folder, and a corpus small enough to learn in seconds."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from jobs.launch import start_ray
from vsa_ray import checkpoints, schema, storage
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN
from vsa_ray.vocabulary import Vocabulary, tokenise

COLOURS = ("red", "green", "blue", "white")
THINGS = ("ball", "box", "star", "ring")
FEATURE_DIM = 16


@pytest.fixture(scope="session", autouse=True)
def cluster(
    tmp_path_factory: pytest.TempPathFactory, s3_server: dict[str, str]
) -> Iterator[ray.runtime_context.RuntimeContext]:
    """One Ray on this machine. Two CPUs, as the smallest machine has.

    Its workers have the environment of its start, so the S3 server's is set here.
    """
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("work"))  # mlflow.db goes to the working directory
    for name, value in s3_server.items():
        patch.setenv(name, value)
    patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # disturbed.py
    # Not below pytest's own folder: a socket's path has to be short. A process of Ray that ends
    # may still write there while it is removed.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        context = ray.init(
            num_cpus=2,
            _temp_dir=folder,
            dashboard_host="127.0.0.1",
            dashboard_port=0,
            include_dashboard=True,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        start_ray()
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # the S3 server's every request
        yield context
        ray.shutdown()
    patch.undo()


@pytest.fixture(scope="session")
def mrnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has learned nothing, and writes nonsense."""
    torch.manual_seed(0)
    words = ("a", "dog", "ball", "red", "runs")
    model = MultimodalRNN(
        CaptionerConfig(hidden_dim=8, word_dim=4, dropout=0.0),
        feature_dim=1280,
        vocabulary_size=6,
        log_frequencies_V=None,
    )
    torch.nn.init.normal_(model.output.weight)
    folder = tmp_path_factory.mktemp("models") / "mrnn"
    checkpoints.save(str(folder), model.eval(), Vocabulary(words, (5, 4, 3, 2, 1), 5))
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return _toy(tmp_path)


@pytest.fixture(scope="session")
def toy_in() -> Callable[[Path], Path]:
    """Makes the same in a folder of the test's own."""
    return _toy


def _toy(tmp_path: Path) -> Path:
    """Images of two coloured things each: a region's feature says which, up to noise."""
    rng = np.random.default_rng(0)
    kinds = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    meaning = dict(zip(kinds, rng.normal(size=(len(kinds), FEATURE_DIM)), strict=True))
    regions, sentences, features = [], [], []
    for split, count in [("train", 40), ("dev", 10), ("test", 10)]:
        for i in range(count):
            one, other = rng.choice(kinds, size=2, replace=False)
            image_id = f"{split}{i}.jpg"
            whole = (meaning[one] + meaning[other]) / 2
            seen = np.stack([whole, meaning[one], meaning[other]])
            features.append((seen + rng.normal(scale=0.1, size=seen.shape)).astype(np.float16))
            regions.append(
                {
                    "image_id": image_id,
                    "uri": f"/nowhere/{image_id}",
                    "split": split,
                    "width": 100,
                    "height": 50,
                    "boxes": [[0, 0, 100, 50], [0, 0, 50, 50], [50, 0, 100, 50]],
                    "scores": [1.0, 0.9, 0.8],
                    "labels": ["", "thing", "thing"],
                    "status": "ok",
                }
            )
            for n, text in enumerate([f"a {one} and a {other}", f"a {other} beside a {one}"]):
                sentences.append(
                    {
                        "sentence_id": f"{image_id}#{n}",
                        "image_id": image_id,
                        "split": split,
                        "text": text,
                        "words": tokenise(text),
                    }
                )
    table = pa.Table.from_pylist(regions, schema=schema.REGIONS)
    at = table.schema.names.index("features")
    table = table.set_column(at, "features", schema.nested(features, pa.float16()))
    write(tmp_path / "regions", table)
    write(tmp_path / "snippets", snippets(sentences))
    write(tmp_path / "sentences", pa.Table.from_pylist(sentences, schema=schema.SENTENCES))
    return tmp_path


def write(path: Path, table: pa.Table) -> None:
    storage.write_table(str(path), table)
    storage.commit(str(path), {"made_from": {}, "rows": len(table)})


def snippets(sentences: list[dict[str, object]]) -> pa.Table:
    """Each sentence cut where its second thing begins: "a red ball and" | "a blue box"."""
    rows = []
    for row in sentences:
        words = row["words"]
        assert isinstance(words, list)
        first = 1 if str(row["sentence_id"]).endswith("#0") else 2
        pieces = [(first, 0, 3), (3 - first, 4, 7)]
        found = [
            {"region": region, "box": [0, 0, 1, 1], "first": start, "stop": stop, "score": 1.0}
            for region, start, stop in pieces
        ]
        rows.append(
            {
                **{key: row[key] for key in ("sentence_id", "image_id", "split")},
                "words": words,
                "snippets": found,
            }
        )
    return pa.Table.from_pylist(rows, schema=schema.SNIPPETS)
