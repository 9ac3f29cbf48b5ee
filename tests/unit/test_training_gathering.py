"""Workers that hold a part of the batch each, in real processes, against one that holds all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from vsa_ray import batches, schema
from vsa_ray.alignment import AlignmentConfig, LabelWords
from vsa_ray.batches import Ragged
from vsa_ray.mrnn import CaptionerConfig
from vsa_ray.texts import TEXTS
from vsa_ray.training import gathering
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.caption_task import CaptionTask
from vsa_ray.training.moments import Moments
from vsa_ray.training.tasks import Pair
from vsa_ray.vocabulary import Vocabulary

FEATURE_DIM = 6
IMAGES = {1: [9], 2: [5, 4], 4: [1, 4, 2, 2]}
"""Images that each worker holds, by the number of workers."""

Results = dict[str, Any]

ALIGNMENTS = {
    "paper": {"loss": "sum_of_hinges", "score": "sum"},
    "hardest": {"loss": "hardest_negative", "score": "cosine"},
    # At 0.05, made for cosines, scores of raw products differ by more than float32 tells well.
    "softmax": {"loss": "softmax", "score": "sqrt_length", "temperature": 1.0},
    "taught": {
        **{"loss": "softmax", "score": "sentence_cosine", "text": "words"},
        **{"detections": True, "distillation": 0.7},
    },
}
CELLS = ("rnn", "lstm")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}

LOSSES = [f"{loss} {kind}" for loss in (*ALIGNMENTS, *CELLS) for kind in TOLERANCE]


@pytest.fixture(scope="module", params=[2, 4])
def workers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each of some workers found, by rank."""
    folder = tmp_path_factory.mktemp("workers")
    # A server that has imported torch forks them: importing it takes longer than all they do.
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["vsa_ray.training.alignment_task", "vsa_ray.training.caption_task"]
    )
    multiprocessing.start_processes(
        _work, args=(request.param, folder), nprocs=request.param, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.fixture(scope="module")
def alone() -> Results:
    """What a single process finds, which gathers nothing."""
    assert gathering.num_workers() == 1
    return _losses(0, 1)


def _work(rank: int, num_workers: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_workers
    )
    results = {
        "who": (gathering.rank(), gathering.num_workers()),
        "gather": _gather(rank, num_workers),
        "exchange": _exchange(rank),
        "on the way": _on_the_way(rank),
    }
    results |= _losses(rank, num_workers)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


# What is asked of gather and of an exchange: worker r multiplies all that it got with r + 1.


def _gather(rank: int, num_workers: int) -> Results:
    values_32 = _numbers(rank, 3, 2).requires_grad_()
    others_32 = _numbers(rank + 10, 3, 2).requires_grad_()
    gathered_N32 = gathering.gather(values_32)
    # autograd hands both sides of a sum one and the same gradient.
    ((gathered_N32 + gathering.gather(others_32)) * _weights(rank, num_workers)).sum().backward()
    return {
        "values": gathered_N32.detach(),
        "gradients": (values_32.grad, others_32.grad),
        "counts": gathering.gather(torch.tensor([rank, 7])),
    }


def _weights(rank: int, num_workers: int) -> Tensor:
    return (rank + 1) * torch.arange(1, num_workers * 6 + 1).double().view(num_workers, 3, 2)


def _own_rows(rank: int) -> Ragged:
    """Of 0, 1, 2, ... things of 0, 1, 2, ... rows."""
    lengths = torch.arange(rank)
    return Ragged(_numbers(rank, int(lengths.sum()), 2).requires_grad_(), lengths)


def _exchanged(own: Ragged) -> tuple[Ragged, int]:
    exchange = gathering.Exchange(own.lengths)
    exchange.send(own.rows)
    return exchange.receive()


def _exchange(rank: int) -> Results:
    own = _own_rows(rank)
    all_rows, first = _exchanged(own)
    ((rank + 1) * all_rows.rows.pow(2).sum()).backward()
    return {
        "rows": all_rows.rows.detach(),
        "lengths": all_rows.lengths,
        "first": first,
        "gradient": own.rows.grad,
    }


def _on_the_way(rank: int) -> list[str]:
    """In which order things are done, forwards and backwards, beside an exchange."""
    done = []

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
            ctx.name = name
            done.append(name)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
            done.append(ctx.name)
            return grad, None

    own = _own_rows(rank)
    exchange = gathering.Exchange(own.lengths)
    exchange.send(Step.apply(own.rows, "before"))
    between = Step.apply(_numbers(9, 2).requires_grad_(), "between")
    rows, _ = exchange.receive()
    (Step.apply(rows.rows, "after").sum() * between.sum()).backward()
    return done


def _numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The losses: every worker backpropagates its share; gradients are then averaged, as DDP does, and
# multiplied by the number of workers, as the loop does with its loss.


def _losses(rank: int, num_workers: int) -> Results:
    first = sum(IMAGES[num_workers][:rank])
    images = _images().slice(first, IMAGES[num_workers][rank])
    tasks = {name: _alignment_task(**options) for name, options in ALIGNMENTS.items()}
    tasks |= {cell: _caption_task(cell) for cell in CELLS}
    found = {}
    for name, task in tasks.items():
        batch = task.batch(images, epoch=3, seed=5)
        for kind in TOLERANCE:
            torch.manual_seed(0)
            found[f"{name} {kind}"] = _loss(task.build().to(kind), task.loss, batch, num_workers)
    return found


def _loss(
    model: nn.Module, loss: Callable[[Any, Pair], Tensor], batch: Pair, num_workers: int
) -> Results:
    share = loss(model, batch)
    share.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for gradient in gradients.values():
        if num_workers > 1:
            dist.all_reduce(gradient)
    return {"share": share.detach(), "gradients": gradients}


def _images() -> pa.Table:
    """Nine images of 1 to 7 regions, with 1 to 3 texts of 1 to 5 words each."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(9):
        regions = int(rng.integers(1, 8))
        texts = [
            [str(word) for word in rng.choice(list("abcdefgh"), size=rng.integers(1, 6))]
            for _ in range(rng.integers(1, 4))
        ]
        rows.append(
            {
                "image_id": f"{i}.jpg",
                "text_ids": [f"{i}.jpg#{n}" for n in range(len(texts))],
                "text_regions": rng.integers(0, regions, size=len(texts)).tolist(),
                "texts": texts,
                "features": rng.normal(size=(regions, FEATURE_DIM)).astype(np.float16).tolist(),
                "boxes": [[1.0, 2.0, 3.0 + box, 9.0] for box in range(regions)],
                "scores": [1.0, *rng.uniform(0.1, 1, size=regions - 1).tolist()],
                "labels": ["", *(str(label) for label in rng.choice(["dog", "cat"], regions - 1))],
                **{"width": 10, "height": 10},
            }
        )
    names = ("features", *batches.DETECTIONS, "labels")
    return pa.Table.from_pylist(
        rows, schema=pa.schema([*TEXTS, *(schema.REGIONS.field(name) for name in names)])
    )


VOCABULARY = Vocabulary(tuple("abcdefg"), (5,) * 7, 10)
MOMENTS = Moments(
    mean_F=np.linspace(-1, 1, FEATURE_DIM, dtype=np.float32),
    scale_F=np.linspace(1, 2, FEATURE_DIM, dtype=np.float32),
)


def _alignment_task(**options: Any) -> AlignmentTask:
    sizes = {"embed_dim": 12, "hidden_dim": 5, "word_dim": 4, "dropout": 0.0}
    config = AlignmentConfig(**sizes, **options)
    beside = 4 + 2 if config.detections else 0
    return AlignmentTask(
        config=config,
        vocabulary=VOCABULARY,
        moments=Moments(
            mean_F=np.append(MOMENTS.mean_F, np.zeros(beside, np.float32)),
            scale_F=np.append(MOMENTS.scale_F, np.ones(beside, np.float32)),
        ),
        regions="",
        sentences="",
        labels=LabelWords(
            {"dog": 0, "": 1}, np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
        ),
    )


def _caption_task(cell: Any) -> CaptionTask:
    return CaptionTask(
        config=CaptionerConfig(cell=cell, hidden_dim=8, word_dim=4, dropout=0.0),
        vocabulary=VOCABULARY,
        moments=MOMENTS,
        regions="",
        has_sentences=True,
        dev_texts=TEXTS.empty_table(),
    )


def test_workers_know_who_they_are(workers: list[Results]) -> None:
    assert [found["who"] for found in workers] == [(r, len(workers)) for r in range(len(workers))]


def test_gather_stacks_the_values_of_all(workers: list[Results]) -> None:
    ranks = range(len(workers))
    both = torch.stack([_numbers(rank, 3, 2) for rank in ranks])
    for found in workers:
        torch.testing.assert_close(found["gather"]["values"], both, rtol=0, atol=0)
        assert found["gather"]["counts"].tolist() == [[rank, 7] for rank in ranks]


def test_gather_sums_the_gradients_of_all(workers: list[Results]) -> None:
    total_N32 = sum(_weights(rank, len(workers)) for rank in range(len(workers)))
    for own_32, found in zip(total_N32, workers, strict=True):
        for gradient_32 in found["gather"]["gradients"]:
            torch.testing.assert_close(gradient_32, own_32)


def test_an_exchange_puts_ragged_rows_end_to_end(workers: list[Results]) -> None:
    parts = [_own_rows(rank) for rank in range(len(workers))]
    for rank, found in enumerate(workers):
        rows = torch.cat([part.rows for part in parts]).detach()
        torch.testing.assert_close(found["exchange"]["rows"], rows, rtol=0, atol=0)
        lengths = torch.cat([part.lengths for part in parts])
        assert found["exchange"]["lengths"].tolist() == lengths.tolist()
        assert found["exchange"]["first"] == sum(len(part.lengths) for part in parts[:rank])


def test_an_exchange_sums_the_gradients_of_all(workers: list[Results]) -> None:
    total = sum(rank + 1 for rank in range(len(workers)))
    for rank, found in enumerate(workers):
        rows = _own_rows(rank).rows.detach()
        torch.testing.assert_close(found["exchange"]["gradient"], 2 * total * rows)


def test_gradients_are_on_their_way_while_others_are_computed(workers: list[Results]) -> None:
    order = ["before", "between", "after"]
    for found in workers:
        assert found["on the way"] == [*order, *reversed(order)]


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_and_its_gradients_do_not_depend_on_the_workers(
    name: str, workers: list[Results], alone: Results
) -> None:
    expected = alone[name]
    assert any(gradient.abs().max() > 0 for gradient in expected["gradients"].values())
    tolerance = TOLERANCE[expected["share"].dtype]
    shares = torch.stack([found[name]["share"] for found in workers])
    torch.testing.assert_close(shares.sum(), expected["share"], rtol=tolerance, atol=tolerance)
    for found in workers:
        assert found[name]["gradients"].keys() == expected["gradients"].keys()
        for parameter, gradient in found[name]["gradients"].items():
            torch.testing.assert_close(
                gradient, expected["gradients"][parameter], rtol=tolerance, atol=tolerance
            )


def test_one_process_gathers_nothing() -> None:
    own = _own_rows(3)
    assert _exchanged(own) == (own, 0)
    torch.testing.assert_close(gathering.gather(own.rows), own.rows[None])
