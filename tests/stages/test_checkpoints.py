"""Checkpoints with power-function averages: exact resuming, and lengths rebuilt from what training stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.averages import average_decay, gamma_of, stored_steps
from stages.checkpoints import (
    averages_of,
    averages_path,
    load_state,
    load_trained,
    rebuilt_average,
    save_averages,
    save_checkpoint,
)
from stages.randomness import KeyedDraws
from stages.specs import StageSpec, TrainingSpec, UNetSpec
from stages.stage import Stage
from stages.training import Batch, TrainState, train_step
from stages.training_specs import AveragesSpec

STEPS, EVERY = 120, 10
PLAIN = TrainingSpec(steps=STEPS, batch_size=4, learning_rate=2e-3, warmup=2, ema=0.9)
TRAINING = PLAIN.model_copy(update={"averages": AveragesSpec(every=EVERY)})
LENGTHS = (0.04, 0.07, 0.15)  # averages of these are truly kept beside the two, to compare with

Weights = dict[str, torch.Tensor]


def stage_of() -> Stage:
    net = UNetSpec(channels=4, multipliers=(1,), blocks=1, attention=(), head_width=4)
    return Stage.build(StageSpec(name="base", size=8, classes=3, net=net))


def batch_of(step: int) -> Batch:
    positions = torch.arange(4)
    images = KeyedDraws(5, "images").normal("x", step, positions, (3, 8, 8)).clamp(-1, 1)
    return Batch(images, positions % 3, positions)


def run(state: TrainState, steps: int, training: TrainingSpec = TRAINING) -> TrainState:
    stage = stage_of()
    while state.step < steps:
        train_step(stage, state, batch_of(state.step), training=training, seed=0)
    return state


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[float, Weights]]:
    """A result as the pipeline leaves it, and averages of other lengths that were kept in double precision."""
    folder, stage = tmp_path_factory.mktemp("trained"), stage_of()
    state = TrainState.start(stage, TRAINING, seed=0)
    (folder / "averages").mkdir()
    kept = {width: {name: p.detach().double() for name, p in state.net.named_parameters()} for width in LENGTHS}
    for step in range(1, STEPS + 1):
        run(state, step)
        for width, average in kept.items():
            share = 1.0 - average_decay(gamma_of(width), step)
            for name, parameter in state.net.named_parameters():
                average[name] += share * (parameter.detach().double() - average[name])
        if step in stored_steps(EVERY, STEPS):
            save_averages(averages_path(folder, step), averages_of(state))
    save_checkpoint(folder, stage.spec, TRAINING, 0, state)
    return folder, kept


def distance(first: Weights, second: Weights) -> float:
    return sum(float((first[name].double() - second[name].double()).square().sum()) for name in second) ** 0.5


def weights_of(folder: Path, **options: object) -> Weights:
    return dict(load_trained(folder, **options).net.named_parameters())  # type: ignore[arg-type]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_rebuilt_average_is_the_one_that_was_kept(length: float, trained: tuple[Path, dict[float, Weights]]) -> None:
    """Within 1 % of how far the averages of different lengths lie apart; twelve pairs were stored."""
    folder, kept = trained
    apart = distance(kept[LENGTHS[0]], kept[LENGTHS[-1]])
    assert distance(weights_of(folder, ema_length=length), kept[length]) < 0.01 * apart


def test_a_stored_average_comes_back_bit_for_bit(trained: tuple[Path, dict[float, Weights]]) -> None:
    stored = load_file(averages_path(trained[0], STEPS))
    for width in (0.05, 0.1):
        for name, weights in weights_of(trained[0], ema_length=width).items():
            assert torch.equal(weights, stored[f"{width}/{name}"])


def test_without_a_length_nothing_is_rebuilt(trained: tuple[Path, dict[float, Weights]]) -> None:
    for averaged, file in ((True, "ema"), (False, "net")):
        stored = load_file(trained[0] / f"{file}.safetensors")
        for name, weights in weights_of(trained[0], averaged=averaged).items():
            assert torch.equal(weights, stored[name])


def test_a_run_that_keeps_averages_resumes_in_the_same_bits(tmp_path: Path) -> None:
    stage = stage_of()
    state = run(TrainState.start(stage, TRAINING, seed=0), 3)
    save_checkpoint(tmp_path / "c", stage.spec, TRAINING, 0, state)
    resumed = TrainState.start(stage, TRAINING, seed=99)  # other weights: everything must come from the folder
    load_state(tmp_path / "c", resumed)
    run(state, 7)
    run(resumed, 7)
    assert list(state.averages) == [0.05, 0.1]
    for width, average in state.averages.items():
        assert not torch.equal(
            *(next(iter(weights.values())) for weights in (average, dict(state.net.named_parameters())))
        )
        for name, tensor in average.items():
            assert torch.equal(tensor, resumed.averages[width][name])


def test_keeping_averages_does_not_touch_the_training() -> None:
    stage = stage_of()
    plain = run(TrainState.start(stage, PLAIN, seed=0), 4, PLAIN)
    keeping = run(TrainState.start(stage, TRAINING, seed=0), 4)
    assert plain.averages == {}
    for a, b in zip(plain.ema.parameters(), keeping.ema.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_first_average_is_the_weights_after_the_first_step() -> None:
    state = run(TrainState.start(stage_of(), TRAINING, seed=0), 1)
    for average in state.averages.values():
        for name, parameter in state.net.named_parameters():
            assert torch.equal(average[name], parameter)


def test_a_length_that_cannot_be_rebuilt_is_refused(trained: tuple[Path, dict[float, Weights]], tmp_path: Path) -> None:
    stage = stage_of()
    save_checkpoint(tmp_path / "c", stage.spec, PLAIN, 0, TrainState.start(stage, PLAIN, seed=0))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "ema.safetensors", "net.safetensors", "optimizer.safetensors", "spec.json"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"ema_length 0.1 cannot be rebuilt in .*/c: it holds no stored averages"):
        load_trained(tmp_path / "c", ema_length=0.1)
    with pytest.raises(ValueError, match=r"ema_length 0.004 cannot be rebuilt from averages of widths 0.05 and 0.1 st"):
        rebuilt_average(trained[0], 0.004)
    with pytest.raises(ValueError, match=r"ema_length 0.1 speaks of averaged weights"):
        load_trained(trained[0], averaged=False, ema_length=0.1)


def test_a_length_is_judged_before_training() -> None:
    TRAINING.check_ema_length(0.07)
    with pytest.raises(ValueError, match=r"give training\.averages"):
        PLAIN.check_ema_length(0.07)
    with pytest.raises(ValueError, match=r"stored at 12 steps, whose best profile is \d\d% off; lower training"):
        TRAINING.check_ema_length(0.004)
