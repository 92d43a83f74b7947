"""One point of a curve: drawn by the chain, compared as the scores say, and nothing at all where weights are gone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.classifier import load_classifier, save_classifier, train_classifier
from pipeline.classifier_spec import ClassifierSpec
from pipeline.data.datasets import open_examples
from pipeline.data.ingest import ingest, ingest_drawn, make_forms
from pipeline.scoring.frechet import frechet_distance
from pipeline.scoring.kernel_distance import kernel_distance
from pipeline.scoring.statistics import stats_of
from pipeline.watching.scoring import drawn, features_of, loaded, score_weights
from pipeline.watching.task import PointJob
from stages.cascade import Cascade
from stages.checkpoints import save_checkpoint
from stages.specs import StageSamplingSpec, StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

SAMPLES, REAL = 40, 60  # blocks of 16: the last is not full
NET = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}


def untrained(folder: Path, seed: int, scale: float = 0.1, **stage: Any) -> Path:
    """A checkpoint of random weights: as good as any to be drawn from."""
    spec = StageSpec.model_validate({"net": NET, "classes": 4, **stage})
    training = TrainingSpec(steps=1, batch_size=1)
    state = TrainState.start(Stage.build(spec), training, seed, "cpu")
    with torch.no_grad():  # nets begin with zeros at their ends, whatever the seed
        for parameter in state.ema.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * scale)
    save_checkpoint(folder, spec, training, seed, state)
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> PointJob:
    folder = tmp_path_factory.mktemp("moment")
    torch.set_num_threads(1)
    ingest_drawn(folder / "data/shards", seed=0, forms=make_forms([(16, "png")]), train=REAL, val=10, shard_size=32)
    examples = open_examples(folder / "data", "train")
    for role, seed in (("features", 1), ("judge", 2)):
        spec = ClassifierSpec(channels=(8, 8), steps=5, batch_size=16)
        save_classifier(train_classifier(spec, examples, [8, 16], seed), folder / role)
    classes = len(examples.classes)
    base = untrained(folder / "base", 0, name="base", size=8, classes=classes)
    low: dict[str, Any] = {"low_res_size": 8, "low_res_schedule": {}, "augmentation": {"noise": {"levels": [0.0, 0.4]}}}
    above = untrained(folder / "sr", 1, name="sr", size=16, classes=classes, **low)
    sampling = {"steps": 2}
    return PointJob(
        weights=(base, above),
        sampling=(sampling, sampling | {"level": 0.2, "augmentation": "truncated"}),
        data=folder / "data",
        features=folder / "features",
        judge=folder / "judge",
        labels="uniform",
        samples=SAMPLES,
        reference=1000,  # more than there are: all
        block=16,
        seed=3,
        precision="f32",
        gpu=False,
        polite=False,
    )


def images_of(job: PointJob) -> tuple[Any, Any]:
    stages = loaded(job.weights, "cpu")
    assert stages is not None
    cascade = Cascade(stages, [StageSamplingSpec.model_validate(sampling) for sampling in job.sampling])
    blocks = list(drawn(cascade, job))
    return np.concatenate([pixels for pixels, _ in blocks]), np.concatenate([labels for _, labels in blocks])


def test_the_last_stage_is_drawn_in_whole_blocks_all_classes_in_turn(job: PointJob) -> None:
    pixels, labels = images_of(job)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (SAMPLES, 16, 16, 3))
    classes = int(labels.max()) + 1
    assert np.array_equal(labels, np.arange(SAMPLES) % classes)
    fewer, _ = images_of(replace(job, samples=10))
    assert np.array_equal(fewer, pixels[:10])


def unbalanced(job: PointJob, folder: Path) -> Path:
    """The real images of ``job``, but of class c at most c + 1."""
    pixels, labels = (examples := open_examples(job.data, "train", size=16)).read(np.arange(REAL))
    for name in range(len(examples.classes)):
        (folder / "tree" / f"{name}").mkdir(parents=True)
        for number, image in enumerate(pixels[labels == name][: name + 1]):
            Image.fromarray(image).save(folder / "tree" / f"{name}" / f"{number}.png")
    ingest(folder / "tree", folder / "data/shards", forms=make_forms([(16, "png")]), val_fraction=0.0, shard_size=64)
    return folder / "data"


def test_a_histogram_of_classes_is_that_of_the_training_images(job: PointJob, tmp_path: Path) -> None:
    job = replace(job, data=unbalanced(job, tmp_path))
    pixels, labels = images_of(replace(job, labels="histogram"))
    assert np.array_equal(labels, open_examples(job.data, "train", size=16).labels[:SAMPLES])
    turn, uniform = images_of(job)
    assert not np.array_equal(labels, uniform)
    assert [np.array_equal(a, b) for a, b in zip(pixels, turn, strict=True)] == (labels == uniform).tolist()
    found = score_weights(replace(job, labels="histogram"))
    assert found is not None
    assert found["labels"] == "histogram"


def test_weights_that_draw_no_images_have_no_score(job: PointJob, tmp_path: Path) -> None:
    classes = len(open_examples(job.data, "train").classes)
    broken = untrained(tmp_path / "base", 0, scale=float("nan"), name="base", size=8, classes=classes)
    with pytest.raises(RuntimeError, match="not finite"):
        score_weights(replace(job, weights=(broken, job.weights[1])))


def test_figures_are_the_scores_of_these_images_against_the_real_ones(job: PointJob) -> None:
    found = score_weights(job)
    assert found is not None
    net, examples = load_classifier(job.features), open_examples(job.data, "train", size=16)
    real = features_of(net, examples.read(np.arange(REAL))[0])
    pixels, labels = images_of(job)
    fake = np.concatenate([features_of(net, pixels[start : start + 16]) for start in range(0, SAMPLES, 16)])
    assert found["fid"] == pytest.approx(frechet_distance(stats_of(fake), stats_of(real)), rel=1e-6)
    assert found["kid"] == pytest.approx(kernel_distance(fake, real, subset_size=SAMPLES).mean, rel=1e-6)
    assert found["fid"] != 0
    judged = np.mean(load_classifier(job.judge)(_floats(pixels)).argmax(1).numpy() == labels)
    assert found["accuracy"] == pytest.approx(judged)
    assert (found["reference"], found["features"], found["labels"]) == (REAL, "classifier", "uniform")
    again = score_weights(job)
    assert again is not None
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def _floats(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_other_weights_below_give_other_scores(job: PointJob, tmp_path: Path) -> None:
    classes = len(open_examples(job.data, "train").classes)
    other = untrained(tmp_path / "base", 7, name="base", size=8, classes=classes)
    found, changed = score_weights(job), score_weights(replace(job, weights=(other, job.weights[1])))
    assert found is not None
    assert changed is not None
    assert changed["kid"] != found["kid"]


def test_fid_is_refused_where_there_are_no_more_images_than_features(job: PointJob) -> None:
    found = score_weights(replace(job, samples=16))  # 16 features
    assert found is not None
    assert found["fid"] is None
    assert found["kid"] is not None
    found = score_weights(replace(job, samples=17))
    assert found is not None
    assert found["fid"] is not None


def test_weights_that_are_gone_give_nothing_and_damaged_ones_an_error(job: PointJob, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(job.weights[0], gone)
    (gone / "ema.safetensors").unlink()
    assert score_weights(replace(job, weights=(gone, job.weights[1]))) is None
    assert score_weights(replace(job, weights=(tmp_path / "never", job.weights[1]))) is None
    shutil.copytree(job.weights[0], damaged := tmp_path / "damaged")
    (damaged / "ema.safetensors").write_bytes(b"torn")
    with pytest.raises(Exception, match=r"(?i)header|deserializ"):
        score_weights(replace(job, weights=(damaged, job.weights[1])))
