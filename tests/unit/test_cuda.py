"""What runs on a GPU gives what it gives on a CPU: one small piece of work for each model."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from vsa_ray import checkpoints, schema, storage, texts
from vsa_ray.alignment import AlignmentConfig
from vsa_ray.captions import CaptionConfig, CaptionRegions
from vsa_ray.images import ImageConfig, LoadImages
from vsa_ray.regions import DetectRegions, RegionConfig
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.config import TrainConfig, make_optimizer
from vsa_ray.training.moments import Moments
from vsa_ray.training.step import train_step
from vsa_ray.training.worker import TaskLoss
from vsa_ray.vocabulary import Vocabulary

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def picture() -> bytes:
    """A red and a blue thing on a rough ground."""
    pixels = np.random.default_rng(0).integers(90, 130, (180, 240, 3), np.uint8)
    pixels[30:100, 20:90] = (200, 0, 0)
    pixels[20:75, 130:210] = (0, 0, 200)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_regions_have_the_same_features() -> None:
    columns = {"image_id": ["a"], "uri": ["a"], "split": ["test"]}
    table = pa.table(columns, schema=schema.IMAGES)
    loaded = LoadImages(ImageConfig())(table.append_column("bytes", pa.array([picture()])))
    on_cpu, on_gpu = (
        DetectRegions(RegionConfig(image_side=128, precision="float32", device=device))(loaded)
        for device in ("cpu", "cuda")
    )
    assert on_gpu["boxes"].to_pylist() == on_cpu["boxes"].to_pylist()
    expected_RF, found_RF = (
        np.array(table["features"][0].as_py(), np.float32) for table in (on_cpu, on_gpu)
    )
    # A GPU may multiply with 10 bits of mantissa.
    error_R = np.linalg.norm(found_RF - expected_RF, axis=1) / np.linalg.norm(expected_RF, axis=1)
    assert len(error_R) > 2
    assert error_R.max() < 0.05


def test_a_step_of_the_alignment_learns_the_same(
    tmp_path: Path, regions: pa.Table, sentences: pa.Table, vocabulary: Vocabulary
) -> None:
    storage.write_table(str(tmp_path / "regions"), regions)
    task = AlignmentTask(
        config=AlignmentConfig(embed_dim=8, hidden_dim=5, word_dim=4, dropout=0.0),
        vocabulary=vocabulary,
        moments=Moments.of(str(tmp_path / "regions")),
        regions="",
        sentences="",
    )
    learned = texts.attach(regions, texts.group_by_image(texts.of_sentences(sentences)))
    batch = task.batch(learned, epoch=0, seed=0)
    config = TrainConfig(optimizer="sgd", learning_rate=0.1)

    def step(device: str) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(0)
        model = task.build().to(device)
        loss = TaskLoss(task, model)
        share = train_step(
            loss, make_optimizer(model, config), batch.to(torch.device(device)), config
        )
        return share.cpu(), {name: value.cpu() for name, value in model.state_dict().items()}

    torch.testing.assert_close(step("cuda"), step("cpu"), rtol=1e-3, atol=1e-4)


def test_captions_are_the_same(
    run: Path, regions: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def captions(device: str) -> list[list[tuple[str, float]]]:
        monkeypatch.setattr(checkpoints, "best_device", lambda: device)
        stage = CaptionRegions(CaptionConfig(beam_size=2, max_words=4), str(run / "mrnn"))
        return [
            [(said["caption"], said["log_prob"]) for said in (row, *row["regions"])]
            for row in stage(regions).to_pylist()
            if row["status"] == "ok"
        ]

    for on_gpu, on_cpu in zip(captions("cuda"), captions("cpu"), strict=True):
        assert [text for text, _ in on_gpu] == [text for text, _ in on_cpu]
        assert [log_prob for _, log_prob in on_gpu] == pytest.approx(
            [log_prob for _, log_prob in on_cpu], rel=1e-3
        )
