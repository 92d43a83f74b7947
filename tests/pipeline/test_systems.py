"""The four systems as settings, trained for a minute or two each on drawn images: they learn, and beat chance.

Everything is what production runs (the experiments in ``jobs/experiments/micro``, their nets, steps and samplers),
only without Ray, so that both cores train.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bounding import bound_block
from pipeline.classifier import Classifier, predict, train_classifier
from pipeline.classifier_spec import ClassifierSpec
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.data.loading import Examples
from pipeline.data.ordering import ExampleOrder
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from stages.cascade import Cascade, Rung, TrainedStage, sample_stage
from stages.images import downsample, to_float, to_uint8, upsample
from stages.randomness import KeyedDraws
from stages.stage import Stage
from stages.training import Batch, TrainState, train_step

MICRO = Path(__file__).parents[2] / "jobs" / "experiments" / "micro"
SYSTEMS = ("ddpm", "sr3", "cdm", "simple_diffusion")
BLOCK = 64
SHARE = 0.7  # of the steps that the experiments ask for: enough to see that they learn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def both_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Examples, Examples]:
    folder = tmp_path_factory.mktemp("data") / "shards"
    ingest_drawn(folder, seed=0, forms=make_forms([(32, "png")]), train=8000, val=512, shard_size=4000)
    return Examples(folder, "train"), Examples(folder, "val")


@pytest.fixture(scope="module")
def judge(splits: tuple[Examples, Examples]) -> Classifier:
    return train_classifier(ClassifierSpec(steps=150), splits[0], [8, 16], seed=1)


def train(experiment: Experiment, name: str, examples: Examples) -> tuple[TrainedStage, TrainedStage]:
    """Stage ``name`` before and after training: (as initialised, averaged weights)."""
    stage = Stage.build(experiment.stage_spec(name, len(examples.classes)))
    training = experiment.stages[name].training
    training = training.model_copy(update={"steps": int(SHARE * training.steps)})
    state = TrainState.start(stage, training, seed=0)
    positions = torch.arange(training.batch_size)
    order = ExampleOrder(examples.counts, seed=0, stage=name)
    while state.step < training.steps:
        pixels, labels = examples.read(order.of_step(state.step, len(positions)))
        batch = Batch(to_float(torch.from_numpy(pixels)), torch.from_numpy(labels), positions)
        train_step(stage, state, batch, training=training, seed=0)
    return TrainedStage(stage, stage.build_net(0)), TrainedStage(stage, state.ema)


def held_out(examples: Examples, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = examples.read(np.arange(count))
    return to_float(torch.from_numpy(pixels)), torch.from_numpy(labels)


@torch.inference_mode()
def loss_of(trained: TrainedStage, examples: Examples) -> float:
    """Mean loss on held-out images, under the draws that any other weights are given too."""
    images, labels = held_out(examples, 256)
    draws = KeyedDraws(9, "held out")
    return float(trained.stage.loss(trained.net, images, labels, draws, 0, torch.arange(256), 256).mean())


def accuracy_of(images: torch.Tensor, labels: torch.Tensor, judge: Classifier) -> float:
    found = predict(judge, to_uint8(upsample(to_float(to_uint8(images)), 32)).numpy())
    return float((found == labels.numpy()).mean())


def bits_of(trained: TrainedStage, examples: Examples, variance: str) -> float:
    """The variational bound of a base stage on held-out images, bits per dimension, over 100 steps."""
    images, labels = held_out(examples, BLOCK)
    images = to_float(to_uint8(downsample(images, trained.stage.spec.size)))
    config = {"seed": 3, "level": 0.0, "precision": "f32", "steps": 100, "variance": variance}
    bound = bound_block(trained, images, labels, torch.arange(BLOCK), config, lambda step: None)
    return float(bound.total.mean())


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_micro_example_learns_and_beats_chance(
    system: str, splits: tuple[Examples, Examples], judge: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    examples, val = splits
    experiment = load_experiment(MICRO / f"{system}.yaml")
    trained: dict[str, TrainedStage] = {}
    told = []
    for name in experiment.names:
        fresh, trained[name] = train(experiment, name, examples)
        before, after = loss_of(fresh, val), loss_of(trained[name], val)
        told.append(f"{system} {name}: loss {before:.3f} -> {after:.3f}")
        assert after < 0.5 * before, told[-1]
        if experiment.stages[name].is_base and experiment.stages[name].times == "steps":
            variance = experiment.stages[name].sampling.variance
            bits = [bits_of(one, val, variance) for one in (fresh, trained[name])]
            told.append(f"{system} {name}: {bits[0]:.2f} -> {bits[1]:.2f} bits per dimension")
            assert bits[1] < min(6.0, bits[0]), told[-1]  # a pixel as it is stored takes 8
    indices = torch.arange(2 * BLOCK)
    labels = indices % len(examples.classes)
    for cascade, names in experiment.chains.items():
        chain = Cascade([trained[name] for name in names], [experiment.stages[name].sampling for name in names])
        rungs = [chain.sample_block(part, labels[part], seed=0, precision="bf16") for part in indices.split(BLOCK)]
        images = torch.cat([rung[-1].images for rung in rungs])
        found = accuracy_of(images, labels, judge)
        told.append(f"{system} {cascade}: chained accuracy {found:.2f}, chance 0.10")
        assert found > 0.4, told[-1]
        for name in names[1:]:
            told.append(
                f"{system} {name}: oracle accuracy {oracle_accuracy(experiment, trained[name], val, judge):.2f}"
            )
    with capsys.disabled():
        print("\n" + "\n".join(told))


def oracle_accuracy(experiment: Experiment, trained: TrainedStage, val: Examples, judge: Classifier) -> float:
    """Accuracy on images that the stage made from real low-res ones."""
    images, labels = held_out(val, BLOCK)
    low_size = trained.stage.spec.low_res_size
    assert low_size is not None
    below = Rung(downsample(images, low_size), {})
    sampling = experiment.stages[trained.stage.spec.name].sampling
    sampling = sampling.model_copy(update={"augmentation": "non_truncated"})
    rung = sample_stage(trained, sampling, torch.arange(BLOCK), labels, below, seed=0)
    return accuracy_of(rung.images, labels, judge)
