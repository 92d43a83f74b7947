"""The U-Net: its output depends on every input it is given; sizes it was told work, others are refused early."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from stages.specs import AugmentationSpec, CosineSchedule, NoiseSpec, StageSpec, UNetSpec
from stages.stage import Stage, parameter_count
from stages.unet import UNet


def small(**changes: object) -> UNet:
    settings = {"classes": 4, "channels": 8, "multipliers": (1, 2), "blocks": (1, 2), "attention": [1], "head_width": 8}
    return UNet(6, 3, **{**settings, "levels_embedded": True, **changes})  # type: ignore[arg-type]


def nudge(net: UNet) -> UNet:
    """Move every parameter off its initial value: zero-initialised branches would hide what they depend on."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.mark.parametrize("patch", [1, 2])
def test_output_depends_on_every_input(patch: int) -> None:
    net = nudge(small(patch=patch))
    images = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    noise = torch.tensor([0.3, -2.0], requires_grad=True)
    aug = torch.tensor([4.0, 1.0], requires_grad=True)
    label = torch.tensor([0, 1])
    out = net(images, noise, label, aug)
    assert out.shape == (2, 3, 8, 8)
    gradients = torch.autograd.grad(out.square().sum(), [images, noise, aug])
    for channel in range(6):
        assert gradients[0][:, channel].abs().min() > 0
    assert torch.all(gradients[1] != 0)
    assert torch.all(gradients[2] != 0)
    assert not torch.allclose(out, net(images, noise, label + 1, aug))


def test_a_fresh_net_gives_zero() -> None:
    out = small()(torch.randn(1, 6, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
    assert torch.all(out == 0)


def test_bf16_agrees_with_f32() -> None:
    net = nudge(small()).eval()
    images = torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    inputs = (images, torch.linspace(-3, 3, 4), torch.arange(4), torch.linspace(0, 5, 4))
    with torch.inference_mode():
        exact = net(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            close = net(*inputs).float()
    assert (exact - close).norm() < 0.05 * exact.norm()


def spec(**changes: object) -> StageSpec:
    fields = {"name": "sr", "size": 16, "low_res_size": 8, "low_res_schedule": CosineSchedule(), "classes": 4}
    net = UNetSpec(channels=8, multipliers=(1, 2), blocks=1, attention=(8,), head_width=8)
    return StageSpec.model_validate({**fields, "net": net, **changes})


def test_parameters_equal_a_hand_count() -> None:
    # channels 8, one level, no blocks: enter, middle (2 blocks), up (1 block on 8 + 8), norm, leave.
    net = UNet(3, 3, classes=4, channels=8, multipliers=(1,), blocks=(0,))
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
        ({"net": {"channels": 8, "multipliers": [1, 2], "blocks": [1]}}, "1 entries for 2 multipliers"),
        ({"net": {"channels": 10, "attention": [8]}}, "head_width 32 does not divide"),
        ({"net": {"chanels": 10}}, "did you mean 'channels'"),
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
