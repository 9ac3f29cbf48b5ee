"""Models and the progress of a training: what comes back, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vsa_ray import checkpoints, storage
from vsa_ray.alignment import AlignmentConfig, AlignmentModel
from vsa_ray.checkpoints import Aligner, Captioner, Progress
from vsa_ray.mrnn import CaptionerConfig, MultimodalRNN
from vsa_ray.storage import StorageError
from vsa_ray.vocabulary import Vocabulary

F, V = 6, 6  # as in conftest.py


def alignment_model(**options: Any) -> AlignmentModel:
    config = AlignmentConfig(embed_dim=7, hidden_dim=5, word_dim=4, score="cosine", **options)
    model = AlignmentModel(config, feature_dim=F, vocabulary_size=V)
    model.standardise(torch.arange(F).float(), torch.arange(F).float())
    return model


def caption_model() -> MultimodalRNN:
    config = CaptionerConfig(cell="lstm", hidden_dim=5, word_dim=4)
    model = MultimodalRNN(config, feature_dim=F, vocabulary_size=V, log_frequencies_V=None)
    model.standardise(torch.arange(F).float(), torch.arange(F).float())
    return model


@pytest.mark.parametrize(
    ("model", "load"),
    [
        (alignment_model(), checkpoints.load_aligner),
        (caption_model(), checkpoints.load_captioner),
    ],
)
def test_a_model_comes_back_as_it_was(
    model: AlignmentModel | MultimodalRNN,
    load: Callable[[str], Aligner | Captioner],
    vocabulary: Vocabulary,
    tmp_path: Path,
) -> None:
    checkpoints.save(str(tmp_path / "saved"), model, vocabulary)
    checkpoints.copy(str(tmp_path / "saved"), str(tmp_path / "copied"))
    for name in ("saved", "copied"):
        found = load(str(tmp_path / name))
        assert found.vocabulary == vocabulary
        assert found.model.config == model.config
        assert not found.model.training
        assert found.model.state_dict().keys() == model.state_dict().keys()
        for key, tensor in model.state_dict().items():
            assert torch.equal(found.model.state_dict()[key], tensor)


def test_a_model_is_three_files(vocabulary: Vocabulary, tmp_path: Path) -> None:
    checkpoints.save(str(tmp_path), alignment_model(), vocabulary)
    assert {file.name for file in tmp_path.iterdir()} == set(checkpoints.FILES)


def test_a_model_is_copied_without_the_progress_of_its_training(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    model = alignment_model()
    checkpoints.save(str(tmp_path / "from"), model, vocabulary)
    optimizer = torch.optim.SGD(model.parameters())
    checkpoints.save_progress(str(tmp_path / "from"), optimizer, Progress(epoch=1))
    checkpoints.copy(str(tmp_path / "from"), str(tmp_path / "to"))
    assert {file.name for file in (tmp_path / "to").iterdir()} == set(checkpoints.FILES)


def test_half_a_copy_is_no_model(vocabulary: Vocabulary, tmp_path: Path) -> None:
    checkpoints.save(str(tmp_path / "from"), alignment_model(), vocabulary)
    (tmp_path / "from" / "vocabulary.json").unlink()
    with pytest.raises(FileNotFoundError):
        checkpoints.copy(str(tmp_path / "from"), str(tmp_path / "to"))
    assert not (tmp_path / "to" / "config.json").exists()


HALF_WAY = Progress(epoch=3, step=12, loss=0.1 + 0.2)

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, alpha=0.999),
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        torch.manual_seed(step)
        sum((torch.randn_like(p) * p).sum() + p.pow(2).sum() for p in model.parameters()).backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_training_that_was_stopped_goes_on_exactly(
    make: Callable[[Any], torch.optim.Optimizer], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    straight = alignment_model()
    start = {name: tensor.clone() for name, tensor in straight.state_dict().items()}
    train(straight, make(straight.parameters()), range(6))

    stopped = alignment_model()
    stopped.load_state_dict(start)
    optimizer = make(stopped.parameters())
    train(stopped, optimizer, range(3))
    checkpoints.save(str(tmp_path), stopped, vocabulary)
    checkpoints.save_progress(str(tmp_path), optimizer, HALF_WAY)

    resumed = alignment_model()
    optimizer = make(resumed.parameters())
    checkpoints.load_weights(str(tmp_path), resumed)
    assert checkpoints.load_progress(str(tmp_path), optimizer) == HALF_WAY
    train(resumed, optimizer, range(3, 6))
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_progress_before_the_first_step(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(alignment_model().parameters(), momentum=0.9)
    checkpoints.save_progress(str(tmp_path), optimizer, Progress())
    assert checkpoints.load_progress(str(tmp_path), optimizer) == Progress()


@pytest.mark.parametrize("name", ["optimizer.safetensors", "progress.json"])
def test_progress_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD(alignment_model().parameters())
    checkpoints.save_progress(str(tmp_path), optimizer, Progress(epoch=1))
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(StorageError, match=name):
        checkpoints.load_progress(str(tmp_path), optimizer)
    (tmp_path / name).unlink()
    with pytest.raises(StorageError, match=name):
        checkpoints.load_progress(str(tmp_path), optimizer)


def test_a_model_of_the_other_kind_is_refused(run: Path) -> None:
    with pytest.raises(
        StorageError, match="mrnn holds MultimodalRNN, but AlignmentModel is needed"
    ):
        checkpoints.load_aligner(str(run / "mrnn"))
    with pytest.raises(StorageError, match="alignment holds AlignmentModel, but MultimodalRNN"):
        checkpoints.load_captioner(str(run / "alignment"))


@pytest.mark.parametrize("name", checkpoints.FILES)
def test_a_missing_file_is_named(name: str, run: Path) -> None:
    (run / "mrnn" / name).unlink()
    with pytest.raises(StorageError, match=rf"mrnn.*{name}"):
        checkpoints.load_captioner(str(run / "mrnn"))


@pytest.mark.parametrize("name", checkpoints.FILES)
def test_a_file_that_is_cut_short_is_named(name: str, run: Path) -> None:
    file = run / "mrnn" / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StorageError, match=rf"mrnn.*{name}"):
        checkpoints.load_captioner(str(run / "mrnn"))


def test_no_directory_at_all(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere holds no complete model"):
        checkpoints.load_aligner(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/config\.json: a file is where a directory"):
        checkpoints.load_aligner(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "holds something else, but AlignmentModel is needed"),
        ({"feature_dim": None}, "does not fit this version"),
        ({"config": {"embed_dim": 7, "depth": 2}}, "does not fit this version.*depth"),
        ({"config": {"embed_dim": 0}}, "does not fit this version.*embed_dim must be >= 1, got 0"),
        ({"config": None}, "does not fit this version"),
        ({"feature_dim": F + 1}, r"model\.safetensors belongs to another model.*mean_F"),
    ],
)
def test_a_description_that_does_not_fit(
    change: dict[str, Any], message: str, run: Path, vocabulary: Vocabulary
) -> None:
    file = run / "alignment" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(StorageError, match=rf"(?s)alignment.*{message}"):
        checkpoints.load_aligner(str(run / "alignment"))


def test_a_description_that_is_no_description(run: Path) -> None:
    (run / "alignment" / "config.json").write_text("[1]")
    with pytest.raises(StorageError, match="holds something else"):
        checkpoints.load_aligner(str(run / "alignment"))


def test_weights_of_another_vocabulary_are_refused(run: Path) -> None:
    other = Vocabulary(("a", "b"), (2, 1), 3)
    other.save(str(run / "mrnn" / "vocabulary.json"))
    with pytest.raises(StorageError, match=r"vocabulary\.json is not the file that was saved"):
        checkpoints.load_captioner(str(run / "mrnn"))
    forget_digests(run / "mrnn")
    with pytest.raises(
        StorageError,
        match=r"model\.safetensors belongs to another model: \w+\.\w+: shape \(6.*but shape \(3",
    ):
        checkpoints.load_captioner(str(run / "mrnn"))


def forget_digests(model: Path) -> None:
    """As a version did that saved none."""
    description = json.loads((model / "config.json").read_text())
    del description["sha256"]
    (model / "config.json").write_text(json.dumps(description))


def test_a_model_without_digests_is_read(run: Path) -> None:
    forget_digests(run / "mrnn")
    checkpoints.load_captioner(str(run / "mrnn"))


def test_weights_that_were_changed_are_refused(run: Path) -> None:
    file = run / "alignment" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # still a whole safetensors file
    file.write_bytes(data)
    with pytest.raises(
        StorageError,
        match=r"model\.safetensors is not the file that was saved: its sha256 is \w{12}",
    ):
        checkpoints.load_aligner(str(run / "alignment"))


def test_a_model_of_another_kind_is_refused(run: Path) -> None:
    with pytest.raises(StorageError, match="holds MultimodalRNN, but AlignmentModel is needed"):
        checkpoints.load_aligner(str(run / "mrnn"))
    for name in checkpoints.FILES[:2]:
        shutil.copy(run / "mrnn" / name, run / "alignment" / name)
    with pytest.raises(StorageError, match="is not the file that was saved"):
        checkpoints.load_aligner(str(run / "alignment"))
    forget_digests(run / "alignment")
    with pytest.raises(StorageError, match=r"to another model: \w+.*: shape .*but missing in"):
        checkpoints.load_aligner(str(run / "alignment"))


def test_the_memory_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    model = alignment_model()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    train(model, optimizer, range(1))
    checkpoints.save_progress(str(tmp_path), optimizer, HALF_WAY)
    other = OPTIMIZERS["adam"](nn.Linear(2, 3).parameters())
    with pytest.raises(StorageError, match=r"optimizer\.safetensors belongs to another model: "):
        checkpoints.load_progress(str(tmp_path), other)
    (tmp_path / "progress.json").write_text('{"epoch": 3, "sha256": {}, "place": 7}')
    with pytest.raises(StorageError, match=r"progress\.json does not fit this version.*place"):
        checkpoints.load_progress(str(tmp_path), optimizer)


def test_an_upload_is_no_model_before_its_last_file(
    vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = alignment_model()
    checkpoints.save(str(tmp_path / "from"), model, vocabulary)
    checkpoints.save_progress(str(tmp_path / "from"), torch.optim.SGD(model.parameters()), HALF_WAY)
    write = storage.write_bytes

    def write_and_try(uri: str, data: bytes) -> None:
        with pytest.raises(StorageError, match="holds no complete model"):
            checkpoints.load_aligner(str(tmp_path / "to"))
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", write_and_try)
    checkpoints.upload(str(tmp_path / "from"), str(tmp_path / "to"))
    checkpoints.load_aligner(str(tmp_path / "to"))
    names = {file.name for file in (tmp_path / "to").iterdir()}
    assert names == {*checkpoints.FILES, *checkpoints.PROGRESS_FILES}


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture(params=["pickle", "torch"])
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that makes another one, `trace` beside it, when it is unpickled."""
    file, bad = tmp_path / "planted", Planted(tmp_path / "trace")
    if request.param == "pickle":
        file.write_bytes(pickle.dumps(bad))
        pickle.loads(file.read_bytes())
    else:
        torch.save(bad, file)
        torch.load(file, weights_only=False)
    bad.trace.unlink()  # so it does what it says
    return file


def test_a_planted_pickle_is_never_run(planted: Path, run: Path) -> None:
    for name in ("model.pt", "pytorch_model.bin", "optimizer.pt"):
        shutil.copy(planted, run / "mrnn" / name)
    checkpoints.load_captioner(str(run / "mrnn"))
    for name in checkpoints.FILES:
        kept = (run / "mrnn" / name).read_bytes()
        shutil.copy(planted, run / "mrnn" / name)
        with pytest.raises(StorageError, match=name):
            checkpoints.load_captioner(str(run / "mrnn"))
        (run / "mrnn" / name).write_bytes(kept)
    optimizer = torch.optim.SGD(alignment_model().parameters())
    checkpoints.save_progress(str(run / "mrnn"), optimizer, Progress())
    shutil.copy(planted, run / "mrnn" / "optimizer.safetensors")
    with pytest.raises(StorageError, match="not an intact safetensors file"):
        checkpoints.load_progress(str(run / "mrnn"), optimizer)
    assert not (planted.parent / "trace").exists()


def test_a_model_in_a_bucket(s3: str, vocabulary: Vocabulary) -> None:
    model = alignment_model()
    checkpoints.save(f"{s3}/model", model, vocabulary)
    found = checkpoints.load_aligner(f"{s3}/model")
    assert torch.equal(found.model.region_layer.weight, model.region_layer.weight)
    storage.delete(f"{s3}/model")
    with pytest.raises(StorageError, match="holds no complete model"):
        checkpoints.load_aligner(f"{s3}/model")
