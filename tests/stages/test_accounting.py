"""Accounting: FLOPs against counts by hand, memory against what autograd really keeps, nothing computed."""

from __future__ import annotations

import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.accounting import cost_of
from stages.specs import AugmentationSpec, CosineSchedule, NoiseSpec, StageSpec, TrainingSpec
from stages.stage import Stage, parameter_count

TRAINING = TrainingSpec(steps=1, batch_size=4)
NET = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_width": 8}


def stage_of(**changes: object) -> Stage:
    fields: dict[str, object] = {"name": "base", "size": 8, "classes": 3, "net": NET}
    return Stage.build(StageSpec.model_validate({**fields, **changes}))


def test_convolutions_are_counted_as_by_hand() -> None:
    # One level, no block: enter, the middle's two blocks, one block on the way up, leave; 8 x 8 positions.
    net = {"kind": "unet", "channels": 8, "multipliers": [1], "blocks": [0]}
    cost = cost_of(stage_of(net=net), TRAINING)
    conv = 2 * 9 * 8 * 8 * 64
    enter, leave = 2 * 9 * 3 * 8 * 64, 2 * 9 * 8 * 3 * 64
    up = 2 * 9 * 16 * 8 * 64 + conv + 2 * 16 * 8 * 64
    embedding = 2 * (64 * 32 + 32 * 32)
    modulation = 3 * 2 * 32 * 16
    assert cost.forward_flops == enter + 4 * conv + up + leave + embedding + modulation


def test_parameters_and_checkpoint_are_those_of_the_real_net() -> None:
    stage = stage_of()
    cost = cost_of(stage, TRAINING)
    assert cost.parameters == parameter_count(stage.build_net(0))
    assert cost.checkpoint_bytes == 16 * cost.parameters
    averaged = TRAINING.model_copy(update={"averages": TrainingSpec(steps=1, averages={"every": 1}).averages})
    assert cost_of(stage, averaged).checkpoint_bytes == 24 * cost.parameters


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_saved_activations_are_those_that_autograd_keeps(precision: str) -> None:
    stage = stage_of(
        name="sr",
        low_res_size=4,
        low_res_schedule=CosineSchedule(),
        augmentation=AugmentationSpec(noise=NoiseSpec()),
    )
    training = TRAINING.model_copy(update={"precision": precision})
    net = stage.build_net(0)
    own = {parameter.data_ptr() for parameter in net.parameters()}

    def kept(batch: int) -> int:
        found: dict[int, int] = {}
        alive = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                found[storage.data_ptr()] = storage.nbytes()
                alive.append(storage)
            return tensor

        images = torch.randn(batch, 6, 8, 8)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            sdpa_kernel(SDPBackend.FLASH_ATTENTION),  # as on a GPU
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        ):
            net(images, torch.zeros(batch), torch.zeros(batch, dtype=torch.int64), torch.zeros(batch))
        return sum(found.values())

    assert cost_of(stage, training).activation_bytes == pytest.approx(kept(3) - kept(2), rel=0.05)


def test_backward_costs_about_twice_forward() -> None:
    cost = cost_of(stage_of(), TRAINING)
    assert 2.5 < cost.training_flops / cost.forward_flops < 3.2


def test_a_net_of_billions_is_counted_in_seconds() -> None:
    net = {"kind": "adm", "channels": 512, "multipliers": [1, 2, 4, 8], "blocks": 3, "attention": [8], "head_width": 64}
    began = time.monotonic()
    assert cost_of(stage_of(size=64, net=net), TRAINING).parameters > 2e9
    assert time.monotonic() - began < 60


def test_counting_leaves_the_stage_usable() -> None:
    stage = stage_of(schedule={"kind": "linear_beta"}, times="steps", conditioning="step")
    cost_of(stage, TRAINING)
    assert float(stage.noise_input(stage.training_logsnr(torch.zeros(1)))) == pytest.approx(0.0, abs=1e-3)
    cost_of(stage, TRAINING)
