"""The U-Net: its parameters equal a hand count; stages it cannot serve are refused early."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from stages.nets import build_net
from stages.specs import AugmentationSpec, CosineSchedule, NoiseSpec, StageSpec, UNetSpec
from stages.stage import Stage, parameter_count


def spec(**changes: object) -> StageSpec:
    fields = {"name": "sr", "size": 16, "low_res_size": 8, "low_res_schedule": CosineSchedule(), "classes": 4}
    net = UNetSpec(channels=8, multipliers=(1, 2), blocks=1, attention=(8,), head_width=8)
    return StageSpec.model_validate({**fields, "net": net, **changes})


def test_parameters_equal_a_hand_count() -> None:
    # channels 8, one level, no blocks: enter, middle (2 blocks), up (1 block on 8 + 8), norm, leave.
    net = build_net(
        UNetSpec(channels=8, multipliers=(1,), blocks=(0,)),
        size=8,
        channels_in=3,
        channels_out=3,
        labels=5,
        levels_embedded=False,
    )
    conv, width = 9 * 8 * 8 + 8, 32
    block = 16 + conv + (width + 1) * 16 + 16 + conv
    up = 32 + (9 * 16 * 8 + 8) + (width + 1) * 16 + 16 + conv + (16 * 8 + 8)
    embedding = (64 * width + width) + (width * width + width) + 5 * width
    expected = (3 * 9 * 8 + 8) + 2 * block + up + 16 + (8 * 9 * 3 + 3) + embedding
    assert parameter_count(net) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 18, "low_res_size": 9}, "attention at"),
        ({"size": 15, "low_res_size": 5}, "does not divide"),
        ({"low_res_size": 6}, "not a multiple"),
        ({"low_res_size": None}, "belong together"),
        ({"net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": [1]}}, "1 entries for 2 multipliers"),
        ({"net": {"kind": "unet", "channels": 10, "attention": [8]}}, "head_width 32 does not divide"),
        ({"net": {"kind": "unet", "chanels": 10}}, "did you mean 'channels'"),
        ({"augmentation": {"noise": {"levels": [0.4, 0.1]}}}, "low, high"),
        ({"augmentation": {"blur": {"kernel": 4}}}, "must be odd"),
    ],
)
def test_impossible_specs_are_refused_in_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**changes)


def test_initial_weights_are_a_function_of_seed_and_name() -> None:
    stage = Stage.build(spec(augmentation=AugmentationSpec(noise=NoiseSpec())))
    torch.manual_seed(1)
    first = stage.build_net(0).state_dict()
    torch.manual_seed(2)
    again, other = stage.build_net(0).state_dict(), stage.build_net(1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["enter.weight"], other["enter.weight"])
