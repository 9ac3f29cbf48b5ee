"""What the two trainings learn from and are measured by, on one worker."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from vsa_ray import batches, evaluation, metrics, schema, storage, texts
from vsa_ray.alignment import AlignmentConfig, LabelWords
from vsa_ray.alignment.distillation import prior
from vsa_ray.checkpoints import Aligner, Captioner
from vsa_ray.mrnn import CaptionerConfig, write_captions
from vsa_ray.training import caption_task
from vsa_ray.training.alignment_task import AlignmentTask
from vsa_ray.training.caption_task import CaptionTask
from vsa_ray.training.moments import Moments
from vsa_ray.training.tasks import SPREAD
from vsa_ray.vocabulary import Vocabulary


def as_dev(table: pa.Table) -> pa.Table:
    """The test split, called dev."""
    split = pc.replace_substring(table["split"], "test", "dev")
    return table.set_column(table.schema.names.index("split"), "split", split)


@pytest.fixture
def regions_uri(tmp_path: Path, regions: pa.Table) -> str:
    storage.write_table(str(tmp_path / "regions"), as_dev(regions))
    return str(tmp_path / "regions")


@pytest.fixture
def sentences_uri(tmp_path: Path, sentences: pa.Table) -> str:
    storage.write_table(str(tmp_path / "sentences"), as_dev(sentences))
    return str(tmp_path / "sentences")


@pytest.fixture
def moments(regions_uri: str) -> Moments:
    return Moments.of(regions_uri)


@pytest.fixture
def alignment(
    regions_uri: str, sentences_uri: str, vocabulary: Vocabulary, moments: Moments
) -> AlignmentTask:
    return AlignmentTask(
        config=AlignmentConfig(embed_dim=8, hidden_dim=5, word_dim=4, dropout=0.0),
        vocabulary=vocabulary,
        moments=moments,
        regions=regions_uri,
        sentences=sentences_uri,
    )


@pytest.fixture
def learned(regions: pa.Table, sentences: pa.Table) -> pa.Table:
    """Images with their sentences, as training reads them."""
    return texts.attach(regions, texts.group_by_image(texts.of_sentences(sentences)))


def test_moments_are_of_the_train_split(regions: pa.Table, moments: Moments) -> None:
    train = batches.features(regions.slice(0, 2)).rows.double().numpy()
    np.testing.assert_allclose(moments.mean_F, train.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.scale_F, train.std(axis=0), rtol=1e-6)
    assert moments.scale_F[0] == 0  # what never varies


def test_moments_leave_out_images_that_failed(tmp_path: Path, regions: pa.Table) -> None:
    split = pa.array(["train"] * len(regions))
    table = regions.set_column(regions.schema.names.index("split"), "split", split)
    for image in range(len(table)):
        part = tmp_path / "parts" / f"part-{image}.parquet"
        part.parent.mkdir(exist_ok=True)
        pa.parquet.write_table(table.slice(image, 1), part)
    found = Moments.of(str(tmp_path / "parts"))
    every = batches.features(regions).rows.double().numpy()
    np.testing.assert_allclose(found.mean_F, every.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.scale_F, every.std(axis=0), rtol=1e-6)


def test_moments_of_nothing(tmp_path: Path, regions: pa.Table) -> None:
    storage.write_table(str(tmp_path / "none"), regions.slice(2))
    with pytest.raises(storage.StorageError, match="none: no image of the train split has regions"):
        Moments.of(str(tmp_path / "none"))


def test_models_are_built_for_the_features_and_the_words(
    alignment: AlignmentTask, caption: CaptionTask
) -> None:
    for task in (alignment, caption):
        model = task.build()
        np.testing.assert_array_equal(model.mean_F, task.moments.mean_F)
        assert model.scale_F[0] == 1.0  # what never varies is only shifted
        np.testing.assert_array_equal(model.scale_F[1:], task.moments.scale_F[1:])
    assert alignment.build().word_vectors.num_embeddings == 6
    expected = caption.vocabulary.log_frequencies()
    np.testing.assert_allclose(caption.build().output.bias.detach(), expected)


def drawn(task: AlignmentTask, images: pa.Table, epoch: int, seed: int = 0) -> list[list[int]]:
    return [ids.tolist() for ids in task.batch(images, epoch=epoch, seed=seed).words.split()]


def test_one_sentence_an_image_is_drawn_every_epoch(
    alignment: AlignmentTask, learned: pa.Table
) -> None:
    batch = alignment.batch(learned, epoch=0, seed=0)
    assert batch.features.lengths.tolist() == [2, 2, 3, 1]
    assert batch.words.lengths.shape == (4,)
    both = {tuple(drawn(alignment, learned, epoch)[0]) for epoch in range(20)}
    assert both == {(1, 2, 5), (2,)}  # "a dog runs", "[the] dog"


def test_the_draw_depends_on_seed_and_epoch_alone(
    alignment: AlignmentTask, learned: pa.Table
) -> None:
    together = [drawn(alignment, learned, epoch) for epoch in range(20)]
    shuffled = learned.take([3, 0, 2, 1])
    for epoch in range(20):
        for image, ids in zip([3, 0, 2, 1], drawn(alignment, shuffled, epoch), strict=True):
            assert ids == together[epoch][image]
    assert together != [drawn(alignment, learned, epoch, seed=1) for epoch in range(20)]


def test_the_alignment_loss_is_eq_9(
    alignment: AlignmentTask, aligner: Aligner, learned: pa.Table
) -> None:
    batch = alignment.batch(learned, epoch=0, seed=0)
    images = [features_RF.tolist() for features_RF in batch.features.split()]
    sentences = [ids.tolist() for ids in batch.words.split()]
    # The model takes features at their word: v_i . s_t is a feature, see conftest.py.
    scores = [
        [sum(max(region[word] for region in image) for word in ids) for ids in sentences]
        for image in images
    ]
    total = 0.0
    for k in range(4):
        for other in range(4):
            if other != k:
                total += max(0.0, scores[k][other] - scores[k][k] + 1)
                total += max(0.0, scores[other][k] - scores[k][k] + 1)
    assert total > 0
    found = alignment.loss(aligner.model, batch)
    assert found.item() == pytest.approx(total / 4)


def test_alignment_is_measured_on_the_dev_split(alignment: AlignmentTask, aligner: Aligner) -> None:
    # Of pair.jpg and plain.jpg the first fits its sentences best; "zebra" fits nothing.
    found = alignment.evaluate(aligner.model, alignment.dev())
    assert found.keys() == {
        "dev/mean_recall",
        SPREAD,
        "dev/annotation_r10",
        "dev/annotation_median_rank",
        "dev/search_r10",
        "dev/search_median_rank",
    }
    data = evaluation.pairs(
        storage.read_table(alignment.regions, schema.REGIONS, split="dev"),
        storage.read_table(alignment.sentences, schema.SENTENCES, split="dev"),
        aligner,
    )
    full = evaluation.retrieval(aligner.model, data)
    recalls = [
        full[direction][name]
        for direction in ("image_annotation", "image_search")
        for name in ("r1", "r5", "r10")
    ]
    assert found["dev/mean_recall"] == pytest.approx(sum(recalls) / 6)
    assert found["dev/search_median_rank"] == full["image_search"]["median_rank"]
    assert full["sentences"] == 4
    scores_BC = evaluation.retrieval_scores(aligner.model, data)
    assert found[SPREAD] == pytest.approx(scores_BC.std() / abs(scores_BC).max())


@pytest.mark.parametrize("loss", ["sum_of_hinges", "hardest_negative", "softmax"])
def test_the_loss_of_a_model_that_tells_nothing_apart(
    loss: str, alignment: AlignmentTask, learned: pa.Table
) -> None:
    config = replace(alignment.config, loss=loss, margin=0.7)
    task = replace(alignment, config=config)
    model = task.build()
    torch.nn.init.zeros_(model.region_layer.weight)  # all scores are 0
    found = task.loss(model, task.batch(learned, epoch=0, seed=0))
    assert found.item() == pytest.approx(task.collapsed_loss(4))
    assert task.evaluate(model, task.dev())[SPREAD] == 0
    assert ("alignment.loss softmax" in task.advice()) == (loss != "softmax")


@pytest.mark.parametrize("score", ["sum", "cosine", "sentence_cosine"])
def test_cosines_are_advised_where_there_are_none(score: str, alignment: AlignmentTask) -> None:
    task = replace(alignment, config=replace(alignment.config, score=score))
    assert ("alignment.score cosine" in task.advice()) == (score == "sum")


def test_what_a_detector_teaches_hides_a_collapse_from_the_loss(alignment: AlignmentTask) -> None:
    config = replace(alignment.config, score="cosine", distillation=0.5)
    assert replace(alignment, config=config).collapsed_loss(4) is None


def test_the_loss_of_a_captioner_that_knows_frequencies_alone(caption: CaptionTask) -> None:
    captioner = caption.build()
    torch.nn.init.zeros_(captioner.output.weight)
    # Texts whose words are as frequent as the vocabulary says.
    logs_V = torch.tensor(caption.vocabulary.log_frequencies())
    expected = -float((logs_V.exp() * logs_V).sum())
    assert caption.collapsed_loss(10) == pytest.approx(expected)
    torch.testing.assert_close(captioner.output.bias.detach(), logs_V)


SNIPPETS = [
    # image_id, sentence_id, region, words; parts of sentences
    ("pair.jpg", "pair.jpg#0", 1, ["a", "dog", "runs"]),
    ("pair.jpg", "pair.jpg#0", 2, ["a", "red", "ball"]),
    ("pair.jpg", "pair.jpg#1", 1, ["dog"]),
]


@pytest.fixture
def caption(
    regions_uri: str, sentences: pa.Table, vocabulary: Vocabulary, moments: Moments
) -> CaptionTask:
    """Of whole images and of boxes."""
    test = sentences.filter(pc.equal(sentences["split"], "test"))
    both = [*texts.known(texts.of_sentences(test), vocabulary), *SNIPPETS]
    return CaptionTask(
        config=CaptionerConfig(hidden_dim=8, word_dim=4, dropout=0.0),
        vocabulary=vocabulary,
        moments=moments,
        regions=regions_uri,
        has_sentences=True,
        dev_texts=texts.group_by_image(iter(both)),
    )


def test_every_text_comes_with_the_feature_of_its_region(
    caption: CaptionTask, regions: pa.Table
) -> None:
    images = texts.attach(regions, caption.dev_texts)
    batch = caption.batch(images, epoch=0, seed=0)
    pair, plain = (image.tolist() for image in batches.features(images).split())
    expected = [
        (pair[0], ["a", "dog", "runs", "a", "red", "ball"]),
        (pair[0], ["dog"]),
        (pair[1], ["a", "dog", "runs"]),
        (pair[2], ["a", "red", "ball"]),
        (pair[1], ["dog"]),
        (plain[0], ["a", "ball"]),
    ]
    words = [caption.vocabulary.decode(ids.tolist()) for ids in batch.words.split()]
    assert list(zip(batch.features.rows.tolist(), words, strict=True)) == expected


def test_the_caption_loss_is_the_mean_of_all_tokens(
    caption: CaptionTask, captioner: Captioner, regions: pa.Table
) -> None:
    batch = caption.batch(texts.attach(regions, caption.dev_texts), epoch=0, seed=0)
    one_by_one = sum(
        captioner.model(feature_F[None], ids_T, torch.tensor([len(ids_T)])).item()
        for feature_F, ids_T in zip(batch.features.rows, batch.words.split(), strict=True)
    )
    tokens = 6 + 1 + 3 + 3 + 1 + 2 + 6  # words, and an END a text
    found = caption.loss(captioner.model, batch)
    assert found.item() == pytest.approx(one_by_one / tokens, rel=1e-5)


@pytest.mark.parametrize("images_at_once", [1, 100])
def test_without_sentences_perplexity_is_the_score(
    images_at_once: int,
    caption: CaptionTask,
    captioner: Captioner,
    regions: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caption_task, "IMAGES_AT_ONCE", images_at_once)
    batch = caption.batch(texts.attach(regions, caption.dev_texts), epoch=0, seed=0)
    perplexity = math.exp(caption.loss(captioner.model, batch).item())
    found = replace(caption, has_sentences=False).evaluate(captioner.model, caption.dev())
    assert found == pytest.approx({"dev/score": -perplexity, "dev/perplexity": perplexity})


def test_whole_images_are_measured_by_their_sentences_not_by_snippets(
    caption: CaptionTask, captioner: Captioner, regions: pa.Table
) -> None:
    found = caption.evaluate(captioner.model, caption.dev())
    written = write_captions(
        captioner.model,
        captioner.vocabulary,
        batches.whole_image_features(regions.slice(2, 2)),
        beam_size=1,
    )
    sentences = [
        [["a", "dog", "runs", "a", "red", "ball"], ["zebra", "dog", "zebra"]],
        [["a", "ball"]],
    ]
    cider = metrics.cider([said.split() for said, _ in written], sentences)
    assert cider > 0
    assert found["dev/cider"] == pytest.approx(cider)
    assert found["dev/score"] == found["dev/cider"]
    assert found["dev/perplexity"] > 1
    assert found[SPREAD] == len({said for said, _ in written}) - 1


def test_what_the_detector_knows_goes_with_a_batch(
    alignment: AlignmentTask, learned: pa.Table
) -> None:
    evidence = np.arange(18, dtype=np.float32).reshape(6, 3)
    config = replace(alignment.config, score="cosine", distillation=2.0)
    taught = replace(alignment, config=config, labels=LabelWords({"dog": 0, "": 1}, evidence))
    batch = taught.batch(learned, epoch=0, seed=0)
    assert batch.detected is not None
    assert batch.detected.class_P.tolist() == [1, 0, 1, 0, 1, 0, 2, 1]  # it never met a ball
    assert batch.detected.evidence_WL.tolist() == evidence[batch.words.rows].tolist()
    lengths = batch.features.lengths
    expected = prior(*torch.tensor(batches.detections(learned)[:, [5, 4]].T), lengths)
    torch.testing.assert_close(batch.detected.prior_P, expected)
    boxes = replace(taught, config=replace(config, regions="boxes"))
    seen = boxes.batch(learned, epoch=0, seed=0)
    assert seen.detected is not None
    assert seen.detected.class_P.tolist() == [0, 0, 0, 2, 1]
    assert alignment.batch(learned, epoch=0, seed=0).detected is None


def test_the_detector_counts_by_its_weight(alignment: AlignmentTask, learned: pa.Table) -> None:
    labels = LabelWords({"dog": 0}, np.full((6, 2), [-100, 0], np.float32))
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        config = replace(alignment.config, score="cosine", distillation=weight)
        task = replace(alignment, config=config, labels=labels)
        torch.manual_seed(0)
        losses[weight] = task.loss(task.build(), task.batch(learned, epoch=0, seed=0)).item()
    assert losses[1.0] - losses[0.0] == pytest.approx(2 * (losses[0.5] - losses[0.0]), rel=1e-4)
    assert losses[1.0] > losses[0.0]


def test_a_model_that_sees_detections(
    alignment: AlignmentTask, regions_uri: str, learned: pa.Table
) -> None:
    task = replace(
        alignment,
        config=replace(alignment.config, detections=True),
        moments=Moments.of(regions_uri, with_detections=True),
    )
    assert len(task.moments.mean_F) == 6 + 6
    model = task.build()
    assert torch.isfinite(task.loss(model, task.batch(learned, epoch=0, seed=0)))
    assert task.evaluate(model, task.dev())["dev/mean_recall"] > 0
