"""Every kind of net: its output depends on every input, at any size its description allows; others are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from stages.net_specs import NetSpec
from stages.nets import build_net

SMALL = {"channels": 8, "multipliers": (1, 2)}
UNET = {"kind": "unet", "blocks": (1, 2), "attention": (4,), "head_width": 8, **SMALL}
ADM = {"kind": "adm", "blocks": 1, "attention": (4,), "heads": 2, **SMALL}
UVIT = {"kind": "uvit", "blocks": 1, "depth": 2, "head_width": 8, **SMALL}
NETS: dict[str, dict[str, Any]] = {
    "unet": UNET,
    "adm": ADM,
    "adm-ddpm": {**ADM, "resampling": "conv", "modulation": "add"},
    "adm-pool": {**ADM, "resampling": "pool", "heads": None, "head_width": 8},
    "uvit": UVIT,
    "uvit-residual": {**UVIT, "skips": "residual"},
    "unet-conv": {**UNET, "patch": 2},
    "adm-haar": {**ADM, "patch": 2, "patching": "haar"},
    "uvit-cdf53": {**UVIT, "patch": 4, "patching": "cdf53"},
}
every_net = pytest.mark.parametrize("settings", NETS.values(), ids=NETS.keys())


def spec_of(**settings: Any) -> NetSpec:
    return TypeAdapter(NetSpec).validate_python(settings)


def build(settings: dict[str, Any], size: int | None = None, *, levels_embedded: bool = True) -> nn.Module:
    """A net of 6 input and 3 output channels; by default its feature maps are 8 and 4 px."""
    torch.manual_seed(0)
    size = size or 8 * settings.get("patch", 1)
    return build_net(
        spec_of(**settings), size=size, channels_in=6, channels_out=3, labels=5, levels_embedded=levels_embedded
    )


def nudge(net: nn.Module) -> nn.Module:
    """Move every parameter off its initial value: zero-initialised branches would hide what they depend on."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net


def inputs_of(batch: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = torch.randn(batch, 6, size, size, generator=torch.Generator().manual_seed(1))
    label = torch.arange(batch) % 5
    return images, torch.linspace(-70, 50, batch), label, torch.linspace(100, 20, batch)


@every_net
def test_output_depends_on_every_input(settings: dict[str, Any]) -> None:
    net = nudge(build(settings))
    images, noise, label, aug = inputs_of(2, 8 * settings.get("patch", 1))
    images.requires_grad_()
    noise.requires_grad_()
    aug.requires_grad_()
    out = net(images, noise, label, aug)
    assert out.shape == (2, 3, *images.shape[2:])
    rows = net.conditioning.label.weight
    by_image, by_noise, by_aug, by_label = torch.autograd.grad(out.square().sum(), [images, noise, aug, rows])
    assert by_image.abs().amin(dim=(0, 2, 3)).min() > 0, "every pixel of every channel"
    assert torch.all(by_noise != 0)
    assert torch.all(by_aug != 0)
    assert by_label.abs().amax(dim=1).ne(0).tolist() == [True, True, False, False, False]


@every_net
def test_examples_of_a_batch_do_not_mix(settings: dict[str, Any]) -> None:
    net = nudge(build(settings)).eval()
    inputs = inputs_of(3, 8 * settings.get("patch", 1))
    with torch.inference_mode():
        torch.testing.assert_close(net(*inputs)[1:2], net(*(x[1:2] for x in inputs)), rtol=1e-4, atol=1e-4)


@every_net
def test_a_fresh_net_gives_zero_and_learns(settings: dict[str, Any]) -> None:
    net = build(settings, levels_embedded=False)
    images, noise, label, _ = inputs_of(2, 8 * settings.get("patch", 1))
    out = net(images, noise, label)
    assert torch.all(out == 0)
    (out - 1.0).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in net.leave.parameters())


@every_net
@pytest.mark.parametrize("side", [2, 6, 16])
def test_any_allowed_size_works(settings: dict[str, Any], side: int) -> None:
    size = side * settings.get("patch", 1)
    settings = {**settings, "attention": (side // 2,)} if "attention" in settings else settings
    net = nudge(build(settings, size))
    assert net(*inputs_of(1, size)).shape == (1, 3, size, size)


@every_net
def test_bf16_agrees_with_f32(settings: dict[str, Any]) -> None:
    net = nudge(build(settings)).eval()
    inputs = inputs_of(4, 8 * settings.get("patch", 1))
    with torch.inference_mode():
        exact = net(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            close = net(*inputs).float()
    assert (exact - close).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("settings", [UNET, ADM, UVIT], ids=lambda settings: settings["kind"])
@pytest.mark.parametrize("below", [4, 8, None])
def test_dropout_acts_only_where_it_is_asked_for(settings: dict[str, Any], below: int | None) -> None:
    three = {"multipliers": (1, 1, 2), "blocks": 1, "dropout": 0.4, "dropout_below": below}
    net = nudge(build({**settings, **three}, 16)).train()
    seen: list[tuple[float, int]] = []

    def look(module: nn.Dropout, inputs: tuple[Tensor]) -> None:
        tokens = math.prod(inputs[0].shape[2:]) if inputs[0].dim() == 4 else inputs[0].shape[1]
        seen.append((module.p, math.isqrt(tokens)))

    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_pre_hook(look)
    inputs = inputs_of(2, 16)
    first, second = net(*inputs), net(*inputs)
    assert {side for _, side in seen} == {4, 8, 16}
    assert all(p == (0.4 if below is None or side <= below else 0.0) for p, side in seen)
    assert not torch.equal(first, second)
    assert torch.equal(net.eval()(*inputs), net(*inputs))


def test_the_embedding_has_the_width_it_is_told() -> None:
    for settings in (UNET, ADM, UVIT):
        assert build(settings).conditioning.label.weight.shape == (5, 32)
        assert build({**settings, "embedding": 24}).conditioning.label.weight.shape == (5, 24)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({**UNET, "multipliers": (1, 2, 2)}, "blocks has 2 entries for 3 multipliers"),
    ({**UVIT, "blocks": (1, 1)}, "blocks has 2 entries for 2 multipliers, of which 1 are convolutional"),
    ({**UNET, "patch": 3, "patching": "haar"}, "patch must be 2, 4, 8, ..., not 3"),
    ({**UVIT, "patching": "cdf53"}, "patch must be 2, 4, 8, ..., not 1"),
    ({**ADM, "head_width": 8}, "exactly one of head_width and heads"),
    ({**ADM, "heads": None}, "exactly one of head_width and heads"),
    ({**ADM, "channels": 7}, "channels 7 must be even"),
    ({**UVIT, "head_width": 5}, "head_width 5 does not divide the transformer's 16 channels"),
    ({**UNET, "chanels": 4}, "did you mean 'channels'"),
    ({**UVIT, "attention": (4,)}, "unknown key 'attention'"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_impossible_nets_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        spec_of(**settings)
    (error,) = refusal.value.errors()
    assert message in error["msg"]
    assert ". " not in error["msg"]


UNFIT: list[tuple[dict[str, Any], int, str]] = [
    (UNET, 9, "a size of 9 px does not divide by 2"),
    ({**UVIT, "patch": 4}, 12, "a size of 12 px does not divide by 8"),
    (UNET, 16, r"attention at \[4\] px, but the feature maps are \[16, 8\] px"),
    ({**UNET, "head_width": 12}, 8, "head_width 12 does not divide the 16 channels at 4 px"),
    ({**UNET, "blocks": (1, 0), "head_width": 16}, 8, "head_width 16 does not divide the 8 channels at 4 px"),
    ({**ADM, "heads": 3}, 8, "heads 3 does not divide the 16 channels at 4 px"),
    ({**ADM, "attention": (), "heads": 3}, 8, "heads 3 does not divide the 16 channels at 4 px"),
    ({**UNET, "dropout": 0.1, "dropout_below": 2}, 8, "dropout_below 2 px leaves no place for dropout"),
]


@pytest.mark.parametrize(("settings", "size", "message"), UNFIT)
def test_sizes_that_cannot_pass_are_refused(settings: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(settings, size)
