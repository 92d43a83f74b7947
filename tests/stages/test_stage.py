"""A stage: which noise levels training draws, what the net is told, and every method of the papers as a setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from stages.process import alpha_sigma
from stages.randomness import KeyedDraws
from stages.schedules import Knots
from stages.specs import StageSamplingSpec, StageSpec, TrainingSpec
from stages.stage import GAMMA_SCALE, LOGSNR_SCALE, Stage
from stages.training import Batch, TrainState, train_step

NET: dict[str, Any] = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
LINEAR = {"kind": "linear_beta", "steps": 50, "beta_start": 1e-3, "beta_end": 0.3}


def spec_of(**changes: Any) -> StageSpec:
    return StageSpec.model_validate({"name": "base", "size": 8, "classes": 3, "net": NET, **changes})


def super_resolution(**changes: Any) -> StageSpec:
    return spec_of(name="sr", low_res_size=4, low_res_schedule={}, **changes)


def knots_of(stage: Stage) -> Knots:
    assert isinstance(stage.schedule, Knots)
    return stage.schedule


def test_discrete_training_draws_each_of_the_steps_equally_often() -> None:
    stage = Stage.build(spec_of(schedule=LINEAR, times="steps", conditioning="step"))
    t = (torch.arange(5000) + 0.5) / 5000
    logsnr = stage.training_logsnr(t)
    steps = stage.noise_input(logsnr)
    assert torch.all((steps - steps.round()).abs() < 1e-3)
    assert torch.equal(steps.round().long().bincount(), torch.full((50,), 100))
    torch.testing.assert_close(logsnr, knots_of(stage).values[steps.round().long()].float())


def test_gamma_training_is_uniform_in_gamma_between_neighbouring_steps() -> None:
    stage = Stage.build(spec_of(schedule=LINEAR, times="gamma", conditioning="gamma"))
    edges = torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(knots_of(stage).values)])
    for step, share in ((0, 0.25), (1, 0.5), (7, 0.1), (49, 0.9)):
        t = torch.tensor([(step + share) / 50], dtype=torch.float64)
        gamma = torch.sigmoid(stage.training_logsnr(t))
        expected = (1 - share) * edges[step] + share * edges[step + 1]
        torch.testing.assert_close(gamma, expected.reshape(1))
    ends = stage.training_logsnr(torch.tensor([0.0, 1.0 - 1e-7]))
    assert torch.all(ends.isfinite())


def test_what_the_net_is_told() -> None:
    logsnr = torch.tensor([-3.0, 0.0, 3.0])
    assert torch.equal(Stage.build(spec_of()).noise_input(logsnr), LOGSNR_SCALE * logsnr)
    gamma = Stage.build(spec_of(conditioning="gamma")).noise_input(logsnr)
    torch.testing.assert_close(gamma, GAMMA_SCALE * torch.sigmoid(logsnr).sqrt())
    stage = Stage.build(spec_of(schedule=LINEAR, conditioning="step"))
    told = stage.noise_input(knots_of(stage).values.float())
    torch.testing.assert_close(told, torch.arange(50.0), atol=1e-3, rtol=0)


def test_labels_have_a_row_for_none_only_where_labels_are_dropped() -> None:
    assert spec_of().labels == 4
    assert spec_of(label_drop=0.0).labels == 3
    net = Stage.build(spec_of(label_drop=0.0)).build_net(0)
    assert [module.num_embeddings for module in net.modules() if isinstance(module, torch.nn.Embedding)] == [3]


def test_a_fixed_level_is_used_for_every_example() -> None:
    stage = Stage.build(super_resolution(augmentation={"noise": {"levels": [0.2, 0.2]}}))
    assert stage.low_res_schedule is not None
    draws, positions = KeyedDraws(0, "sr"), torch.arange(6)
    low_res = draws.normal("images", 0, positions, (3, 4, 4))
    found = stage.augmented(low_res, draws, 0, positions)
    expected = stage.low_res_schedule(torch.full((6,), 0.2))
    torch.testing.assert_close(found.aug_logsnr, expected)
    alpha, sigma = alpha_sigma(expected.reshape(-1, 1, 1, 1))
    noise = (found.image - alpha * low_res) / sigma
    assert noise.std().item() == pytest.approx(1.0, abs=0.15)


def test_levels_are_drawn_per_example_over_the_range() -> None:
    stage = Stage.build(super_resolution(augmentation={"noise": {"levels": [0.1, 0.4]}}))
    assert stage.low_res_schedule is not None
    positions = torch.arange(400)
    found = stage.augmented(torch.zeros(400, 3, 4, 4), KeyedDraws(0, "sr"), 3, positions)
    low, high = stage.low_res_schedule(torch.tensor([0.4, 0.1]))
    assert torch.all((found.aug_logsnr >= low) & (found.aug_logsnr <= high))
    assert len(found.aug_logsnr.unique()) > 390


@pytest.mark.parametrize("spec", [spec_of(), super_resolution(augmentation={"noise": {"levels": [0.0, 0.3]}})])
def test_a_net_is_given_planes_however_the_images_lie_in_memory(spec: StageSpec) -> None:
    """In rows of pixels, as they come from shards, the net would go on in that order: slower in bf16 on a CPU."""
    stage, given = Stage.build(spec), list[bool]()
    net = stage.build_net(0)
    net.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].is_contiguous()))
    images, labels, positions = torch.rand(4, 3, 8, 8), torch.arange(4) % 3, torch.arange(4)
    losses = [
        stage.loss(net, x, labels, KeyedDraws(0, "layout"), 0, positions, 4)
        for x in (images, images.to(memory_format=torch.channels_last))
    ]
    assert given == [True, True]
    assert torch.equal(*losses)


@pytest.mark.parametrize("flip", [False, True])
def test_flips_turn_half_the_images_and_both_resolutions_together(flip: bool) -> None:
    # A net that answers with the upsampled low-res image sees exactly the x it is judged on, flipped or not.
    stage = Stage.build(super_resolution(flip=flip, prediction="x", loss={"space": "x"}, upsampling="nearest"))
    ramp = torch.linspace(-1, 1, 4).repeat_interleave(2).expand(64, 3, 8, 8)  # constant over each low-res pixel
    falling = 0

    def copy(images: torch.Tensor, noise: torch.Tensor, label: torch.Tensor, aug: torch.Tensor | None) -> torch.Tensor:
        nonlocal falling
        falling = int((images[:, 3, 0, -1] < images[:, 3, 0, 0]).sum())
        return images[:, 3:]

    loss = stage.loss(copy, ramp, torch.zeros(64, dtype=torch.int64), KeyedDraws(0, "sr"), 0, torch.arange(64), 64)
    assert torch.all(loss < 1e-10)
    assert 16 < falling < 48 if flip else falling == 0


METHODS: dict[str, dict[str, Any]] = {
    "ddpm": {
        "schedule": LINEAR,
        "times": "steps",
        "conditioning": "step",
        "prediction": "eps",
        "loss": {"space": "eps"},
    },
    "improved": {
        "schedule": {"kind": "cosine_beta", "steps": 50},
        "times": "steps",
        "conditioning": "step",
        "prediction": "eps",
        "loss": {"kind": "hybrid"},
    },
    "hybrid v": {"schedule": LINEAR, "times": "steps", "prediction": "v", "loss": {"kind": "hybrid"}},
    "sr3": {
        "schedule": LINEAR,
        "times": "gamma",
        "conditioning": "gamma",
        "prediction": "eps",
        "loss": {"space": "eps", "power": 1},
    },
    "sr3 x": {"schedule": LINEAR, "times": "gamma", "conditioning": "gamma", "prediction": "x", "loss": {"space": "x"}},
    "simple": {"schedule": {"kind": "shifted_cosine", "reference": 4}, "loss": {"space": "eps", "multiscale": 4}},
    "interpolated": {"schedule": {"kind": "interpolated_cosine", "references": [2, 16]}, "loss": {"space": "eps"}},
    "sid2": {"loss": {"space": "eps", "weight": {"bias": -1.0}}},
    "piecewise": {"schedule": {"kind": "piecewise", "logsnr": [10.0, 1.0, -10.0]}},
}


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_every_method_falls_in_training(method: str) -> None:
    stage = Stage.build(spec_of(**METHODS[method]))
    training = TrainingSpec(steps=60, batch_size=16, learning_rate=5e-3, warmup=5, ema=0.9)
    state = TrainState.start(stage, training, seed=0)
    image = KeyedDraws(0, "x").normal("x", 0, torch.zeros(1, dtype=torch.int64), (3, 8, 8)).clamp(-1, 1)
    batch = Batch(image.expand(16, 3, 8, 8), torch.zeros(16, dtype=torch.int64), torch.arange(16))
    losses = [float(train_step(stage, state, batch, training=training, seed=0).loss) for _ in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"kind": "hybrid"}}, "needs a schedule of T steps, not cosine"),
        ({"times": "gamma"}, "times: gamma needs a schedule of T steps"),
        ({"conditioning": "step"}, "conditioning: step needs a schedule of T steps"),
        ({"schedule": LINEAR, "loss": {"kind": "hybrid"}}, "set times: steps"),
        ({"loss": {"space": "v", "weight": {"bias": 0.0}}}, "belongs to a loss on eps"),
        ({"loss": {"space": "eps", "multiscale": 3}}, "does not come from 8 px by halving"),
        ({"schedule": {"kind": "linear_beta", "steps": 100}}, "raise beta_end"),
        ({"schedule": {"kind": "piecewise", "logsnr": [1.0, 2.0]}}, "must fall"),
        ({"schedule": {"kind": "interpolated_cosine", "references": [64, 32]}}, "low, high"),
        ({"schedule": {"kind": "interpolated_cosine", "references": [16, 512]}}, "too far apart"),
        ({"augmentation": {}}, "remove augmentation"),
    ],
)
def test_parts_that_cannot_go_together_are_refused_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        spec_of(**changes)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    ("changes", "sampling", "message"),
    [
        ({}, {"sampler": "ancestral", "variance": "learned"}, "only loss: {kind: hybrid} trains one"),
        ({"label_drop": 0.0}, {"guidance": 2.0}, "set label_drop above 0"),
        ({}, {"level": 0.2}, "outside the trained augmentation levels"),
        ({"schedule": LINEAR, "times": "steps"}, {"steps": 51}, "more than the 50 steps"),
        ({"schedule": LINEAR, "conditioning": "step"}, {"schedule": {"kind": "cosine"}}, "all the net knows"),
    ],
)
def test_a_net_is_sampled_only_as_it_was_trained(
    changes: dict[str, Any], sampling: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(**changes).check_sampling(StageSamplingSpec.model_validate(sampling))
