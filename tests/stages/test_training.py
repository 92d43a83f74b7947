"""Training: slicing does not matter, resuming is exact, and a seeded micro-run repeats its stored losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stages.checkpoints import load_state, load_trained, save_checkpoint
from stages.randomness import KeyedDraws
from stages.specs import (
    AugmentationSpec,
    BlurSpec,
    CosineSchedule,
    NoiseSpec,
    StageSpec,
    TrainingSpec,
    UNetSpec,
    ema_decay,
    learning_rate_at,
)
from stages.stage import Stage
from stages.training import Batch, TrainState, accumulate_gradients, approach, keyed_dropout, train_step, update_average

TRAINING = TrainingSpec(steps=6, batch_size=8, learning_rate=2e-3, warmup=2, ema=0.9)


def stage_of(kind: str) -> Stage:
    net = UNetSpec(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_width=8)
    if kind == "dropout":
        net = net.model_copy(update={"dropout": 0.2})
    if kind in ("base", "dropout"):
        return Stage.build(StageSpec(name="base", size=8, classes=3, net=net))
    augmentation = AugmentationSpec(noise=NoiseSpec(levels=(0.0, 0.4)), blur=BlurSpec())
    return Stage.build(
        StageSpec(
            name="sr",
            size=8,
            low_res_size=4,
            low_res_schedule=CosineSchedule(),
            classes=3,
            net=net,
            augmentation=augmentation,
            flip=True,
        )
    )


def batch_of(step: int, positions: torch.Tensor | None = None) -> Batch:
    """A made-up global batch of 8 images of 16 px, or the given positions of it."""
    positions = torch.arange(8) if positions is None else positions
    images = KeyedDraws(5, "images").normal("x", step, positions, (3, 16, 16)).clamp(-1, 1)
    return Batch(images, positions % 3, positions)


def run(stage: Stage, steps: int, state: TrainState | None = None) -> tuple[TrainState, list[float]]:
    state = TrainState.start(stage, TRAINING, seed=0) if state is None else state
    losses = []
    while state.step < steps:
        losses.append(float(train_step(stage, state, batch_of(state.step), training=TRAINING, seed=0).loss))
    return state, losses


# Made with torch 2.15 on a CPU, one thread. They change only when the method does: say so when you change them.
STORED_LOSSES = {
    "base": [0.5898519, 0.5898823, 0.5934139, 0.5213064, 0.6080642, 0.5272059],
    "sr": [0.5555725, 0.6187258, 0.5531703, 0.5443517, 0.5532921, 0.6156809],
}


@pytest.mark.parametrize("kind", ["base", "sr"])
def test_micro_run_repeats_its_stored_losses(kind: str) -> None:
    _, losses = run(stage_of(kind), 6)
    assert losses == pytest.approx(STORED_LOSSES[kind], rel=1e-4)


@pytest.mark.parametrize("kind", ["base", "sr"])
def test_losses_of_slices_are_the_losses_of_the_whole_batch(kind: str) -> None:
    stage = stage_of(kind)
    net = TrainState.start(stage, TRAINING, seed=0).net
    draws = KeyedDraws(0, stage.spec.name)

    def loss(positions: torch.Tensor) -> torch.Tensor:
        batch = batch_of(3, positions)
        return stage.loss(net, batch.images, batch.labels, draws, 3, batch.positions, 8)

    whole = loss(torch.arange(8))
    slices = torch.cat([loss(torch.tensor([0, 1, 2])), loss(torch.tensor([3])), loss(torch.tensor([4, 5, 6, 7]))])
    torch.testing.assert_close(slices, whole, rtol=1e-5, atol=1e-6)


def gradient_of(kind: str, training: TrainingSpec, positions: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What one slice of the first global batch adds to the gradient, and its share of the loss.

    The weights are off their start, where zeros keep most gradients (and all masks) from mattering.
    """
    stage = stage_of(kind)
    state = TrainState.start(stage, training, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in state.net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    share = accumulate_gradients(stage, state, batch_of(0, positions), training=training, seed=0)
    found = [p.grad.flatten() for p in state.net.parameters() if p.grad is not None]
    return torch.cat(found), float(share)


@pytest.mark.parametrize("cuts", [[4, 4], [3, 3, 2], [1, 7]])
def test_shares_of_any_lengths_sum_to_the_whole(cuts: list[int]) -> None:
    whole, loss = gradient_of("sr", TRAINING, torch.arange(8))
    parts = [gradient_of("sr", TRAINING, positions) for positions in torch.arange(8).split(cuts)]
    torch.testing.assert_close(sum(part for part, _ in parts), whole, rtol=1e-5, atol=1e-7)
    assert sum(share for _, share in parts) == pytest.approx(loss, rel=1e-6)


def test_micro_batches_sum_to_the_whole_whoever_has_them() -> None:
    """Their dropout masks too go with the micro-batch, so slices that end where it ends change only the rounding."""
    micro = TRAINING.model_copy(update={"micro_batch": 3})  # 3 + 3 + 2
    torch.testing.assert_close(
        gradient_of("sr", micro, torch.arange(8)), gradient_of("sr", TRAINING, torch.arange(8)), rtol=1e-5, atol=1e-7
    )
    whole, loss = gradient_of("dropout", micro, torch.arange(8))
    for cuts in ([3, 5], [6, 2], [3, 3, 2]):
        parts = [gradient_of("dropout", micro, positions) for positions in torch.arange(8).split(cuts)]
        torch.testing.assert_close(sum(part for part, _ in parts), whole, rtol=1e-6, atol=1e-8)
        assert sum(share for _, share in parts) == pytest.approx(loss, rel=1e-6)
    assert not torch.allclose(gradient_of("dropout", TRAINING, torch.arange(8))[0], whole, rtol=1e-2)


def test_a_slice_is_cut_where_the_global_batch_is() -> None:
    pieces = batch_of(0, torch.arange(2, 8)).pieces(4)
    assert [piece.positions.tolist() for piece in pieces] == [[2, 3], [4, 5, 6, 7]]
    assert torch.equal(torch.cat([piece.images for piece in pieces]), batch_of(0, torch.arange(2, 8)).images)
    assert [piece.labels.tolist() for piece in pieces] == [[2, 0], [1, 2, 0, 1]]


def test_gradients_are_exchanged_in_the_last_micro_batch_alone() -> None:
    stage, exchanged = stage_of("base"), []
    training = TRAINING.model_copy(update={"micro_batch": 3})
    state = TrainState.start(stage, training, seed=0)

    class Exchanging(torch.nn.Module):
        """Counts as DistributedDataParallel does: what is called within ``no_sync`` exchanges nothing."""

        quiet = False

        @contextmanager
        def no_sync(self) -> Iterator[None]:
            self.quiet = True
            yield
            self.quiet = False

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            exchanged.append(not self.quiet)
            return state.net(*inputs)

    accumulate_gradients(stage, state, batch_of(0), model=Exchanging(), training=training, seed=0)
    assert exchanged == [False, False, True]


def test_dropout_differs_from_step_to_step_and_leaves_torchs_generator_alone() -> None:
    stage, plain = stage_of("dropout"), stage_of("base")
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    dropped, kept = run(stage, 3)[1], run(plain, 3)[1]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert dropped[1:] != kept[1:]
    draws, net, one = KeyedDraws(0, "base"), torch.nn.Dropout(0.5), torch.ones(64)

    def mask(step: int, first: int) -> torch.Tensor:
        with keyed_dropout(net, draws, step, torch.tensor([first]), one.device):
            return net(one)

    assert torch.equal(mask(0, 0), mask(0, 0))
    assert not torch.equal(mask(0, 0), mask(1, 0))
    assert not torch.equal(mask(0, 0), mask(0, 8))


@pytest.mark.parametrize("kind", ["base", "sr", "dropout"])
def test_a_run_cut_at_any_step_ends_in_the_same_bits(kind: str, tmp_path: Path) -> None:
    stage = stage_of(kind)
    straight, losses = run(stage, 6)
    for cut in (1, 4):
        state, head = run(stage, cut)
        save_checkpoint(tmp_path / f"{cut}", stage.spec, TRAINING, 0, state)
        resumed = TrainState.start(stage, TRAINING, seed=99)  # other weights: everything must come from the folder
        load_state(tmp_path / f"{cut}", resumed)
        resumed, tail = run(stage, 6, resumed)
        assert head + tail == losses
        for name in ("net", "ema"):
            for a, b in zip(getattr(straight, name).parameters(), getattr(resumed, name).parameters(), strict=True):
                assert torch.equal(a, b)


def test_a_checkpoint_samples_with_its_average(tmp_path: Path) -> None:
    stage = stage_of("base")
    state, _ = run(stage, 3)
    save_checkpoint(tmp_path / "c", stage.spec, TRAINING, 0, state)
    trained = load_trained(tmp_path / "c")
    assert trained.stage.spec == stage.spec
    for a, b in zip(trained.net.parameters(), state.ema.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sorted(p.suffix for p in (tmp_path / "c").iterdir()) == [".json"] + [".safetensors"] * 3


def test_loss_falls_on_one_image() -> None:
    stage = stage_of("base")
    training = TRAINING.model_copy(update={"warmup": 10, "learning_rate": 5e-3})
    state = TrainState.start(stage, training, seed=0)
    image = batch_of(0, torch.zeros(1, dtype=torch.int64)).images
    losses = []
    for _ in range(150):
        batch = Batch(image.repeat(8, 1, 1, 1), torch.zeros(8, dtype=torch.int64), torch.arange(8))
        losses.append(float(train_step(stage, state, batch, training=training, seed=0).loss))
    assert sum(losses[-20:]) < 0.35 * sum(losses[:20])


def test_average_is_a_lerp_and_warms_up() -> None:
    average, weights = [torch.zeros(2), torch.ones(3)], [torch.ones(2), torch.ones(3)]
    update_average(average, weights, 0.75, torch.ones(()))
    assert [tensor.tolist() for tensor in average] == [[0.25] * 2, [1.0] * 3]
    update_average(average, weights, 0.75, torch.zeros(()))
    assert [tensor.tolist() for tensor in average] == [[0.25] * 2, [1.0] * 3]
    assert [ema_decay(0.9, step) for step in (0, 8, 10**6)] == pytest.approx([0.1, 0.5, 0.9])


def test_an_average_in_few_launches_is_that_of_one_tensor_after_another() -> None:
    generator = torch.Generator().manual_seed(0)
    average, weights = ([torch.randn(3, 5, generator=generator) for _ in range(4)] for _ in range(2))
    moved, begun = [tensor.clone() for tensor in average], [tensor.clone() for tensor in average]
    approach(moved, weights, torch.zeros(()))
    assert all(torch.equal(one, other) for one, other in zip(moved, begun, strict=True))
    approach(moved, weights, torch.full((), 0.25))
    update_average(average, weights, 0.75, torch.ones(()))
    for one, other in zip(moved, average, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_learning_rate_does_not_depend_on_the_number_of_steps() -> None:
    training = TrainingSpec(steps=10, learning_rate=1.0, warmup=4, decay_after=100)
    longer = training.model_copy(update={"steps": 10_000})
    assert [learning_rate_at(training, step) for step in (0, 3, 50)] == [0.25, 1.0, 1.0]
    assert learning_rate_at(longer, 399) == pytest.approx(0.5)
    assert all(learning_rate_at(training, step) == learning_rate_at(longer, step) for step in range(10))
