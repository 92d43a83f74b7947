"""Memorised training images: a planted copy is found and shown beside its original, ordinary samples are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.dag import Progress, Task
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.data.loading import Examples
from pipeline.memorisation import nearest_training
from pipeline.storage import open_storage

TRAIN, VAL = 200, 120
COPIED = 137  # the training image that a sample repeats
PLANTED = 5  # the row of the preview that repeats it
INDICES = np.arange(40, 52)  # of the samples that the preview shows


def features_of(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Mean-pooled pixels stand for a net's features."""
    pooled = pixels.reshape(len(pixels), 8, 2, 8, 2, 3).mean(axis=(2, 4))
    return pooled.reshape(len(pixels), -1).astype(np.float32) / 255


def left(folder: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    folder.mkdir()
    np.save(folder / "features-classifier.npy", features_of(pixels))
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Samples that are real images of another seed, one of them a training image with a little noise."""
    folder = tmp_path_factory.mktemp("memorisation")
    forms = make_forms([(16, "raw")])
    ingest_drawn(folder / "data" / "shards", seed=0, forms=forms, train=TRAIN, val=VAL, shard_size=64)
    ingest_drawn(folder / "other", seed=9, forms=forms, train=4, val=VAL, shard_size=64)
    training, _ = Examples(folder / "data" / "shards", "train").read(np.arange(TRAIN))
    held_out, _ = Examples(folder / "data" / "shards", "val").read(np.arange(VAL))
    samples, labels = Examples(folder / "other", "val").read(np.arange(VAL))
    copy = training[COPIED].astype(int) + np.random.default_rng(0).integers(-2, 3, training[COPIED].shape)
    samples[INDICES[PLANTED]] = copy.clip(0, 255)
    inputs = {
        "drawn": left(folder / "drawn", samples),
        "reference": left(folder / "reference", training),
        "real_val": left(folder / "real", held_out),
        "data": folder / "data",
    }
    np.save(folder / "drawn" / "preview.npy", samples[INDICES])
    np.save(folder / "drawn" / "preview_labels.npy", labels[INDICES])
    np.save(folder / "drawn" / "preview_indices.npy", INDICES)
    config = {"size": 16, "scorer": "classifier", "count": 6}
    (folder / "out").mkdir()
    return Task("memorisation/base", config, inputs, folder / "out", {"threads": 1}, open_storage(folder), Progress())


def test_a_planted_copy_is_the_first_row_and_stands_beside_its_original(task: Task) -> None:
    found = nearest_training(task)
    assert json.loads(json.dumps(found)) == found
    first, *others = found["neighbours"]
    assert first["index"] == INDICES[PLANTED]
    assert first["nearest"][0] == COPIED
    assert first["distances"][0] < 0.2 * found["real_distances"]["p01"]
    assert first["distances"] == sorted(first["distances"])
    assert len(others) == 5
    assert [row["distances"][0] for row in others] == sorted(row["distances"][0] for row in others)
    pairs = np.load(task.out / "pairs.npy")
    assert pairs.shape == (6, 4, 16, 16, 3)
    assert pairs.dtype == np.uint8
    assert np.abs(pairs[0, 0].astype(int) - pairs[0, 1]).max() <= 2
    training, _ = Examples(task.inputs["data"] / "shards", "train").read(np.arange(TRAIN))
    for row, told in zip(pairs, found["neighbours"], strict=True):
        assert np.array_equal(row[1:], training[told["nearest"]])


def test_distances_are_those_to_the_nearest_training_image(task: Task) -> None:
    found = nearest_training(task)
    held_out, training = (
        np.load(task.inputs[role] / "features-classifier.npy").astype(np.float64) for role in ("real_val", "reference")
    )
    expected = np.linalg.norm(held_out[:, None] - training, axis=-1).min(axis=1)
    assert found["real_distances"]["median"] == pytest.approx(np.median(expected), rel=1e-5)
    assert found["real_distances"]["p01"] == pytest.approx(np.percentile(expected, 1), rel=1e-5)
    assert (found["reference"], found["of"], found["compared"]) == (TRAIN, TRAIN, VAL)


def test_samples_of_the_same_distribution_are_as_near_as_held_out_images(task: Task) -> None:
    found = nearest_training(task)
    assert found["distances"]["median"] == pytest.approx(found["real_distances"]["median"], rel=0.1)
    assert 1 / VAL <= found["nearer"] <= 0.1  # the copy, and what chance adds


def test_a_preview_of_fewer_samples_than_rows_is_shown_whole(task: Task, tmp_path: Path) -> None:
    config = {**task.config, "count": 50}
    wide = Task(task.node, config, task.inputs, tmp_path, task.context, task.storage, task.progress)
    assert len(nearest_training(wide)["neighbours"]) == len(INDICES)
    assert np.load(tmp_path / "pairs.npy").shape == (12, 4, 16, 16, 3)


def test_without_a_preview_there_are_no_neighbours_and_the_distances_all_the_same(task: Task, tmp_path: Path) -> None:
    (bare := tmp_path / "drawn").mkdir()
    for name, values in (("preview", np.empty((0, 16, 16, 3), np.uint8)), ("preview_labels", INDICES[:0])):
        np.save(bare / f"{name}.npy", values)
    np.save(bare / "preview_indices.npy", INDICES[:0])
    shutil.copy(task.inputs["drawn"] / "features-classifier.npy", bare)
    inputs = {**task.inputs, "drawn": bare}
    found = nearest_training(Task(task.node, task.config, inputs, tmp_path, task.context, task.storage, task.progress))
    assert found == {**nearest_training(task), "neighbours": []}
    assert np.load(tmp_path / "pairs.npy").shape == (0, 4, 16, 16, 3)


def test_what_was_not_searched_is_told(task: Task, tmp_path: Path) -> None:
    (some := tmp_path / "reference").mkdir()
    np.save(some / "features-classifier.npy", np.load(task.inputs["reference"] / "features-classifier.npy")[:150])
    inputs = {**task.inputs, "reference": some}
    found = nearest_training(Task(task.node, task.config, inputs, tmp_path, task.context, task.storage, task.progress))
    assert (found["reference"], found["of"]) == (150, TRAIN)
    assert all(index < 150 for row in found["neighbours"] for index in row["nearest"])
