"""The U-ViT: parameters and FLOPs equal a hand count; its two kinds of long skips are what they claim."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stages.net_specs import UViTSpec
from stages.nets import build_net

# Images of 16 px and 6 channels enter in patches of 2 px: maps of 8 px (8 channels), then 4 px (32 channels).
SPEC = UViTSpec(channels=8, multipliers=(1, 4), blocks=1, depth=2, head_width=8, mlp_ratio=3, patch=2)
HIGH, LOW = 8 * 8, 4 * 4  # positions
NARROW, WIDE = 8, 32  # channels
EMBEDDING = 4 * 8


def net_of(spec: UViTSpec) -> nn.Module:
    torch.manual_seed(0)
    return build_net(spec, size=16, channels_in=6, channels_out=3, labels=5, levels_embedded=True)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.randn(1, 6, 16, 16), torch.tensor([300.0]), torch.tensor([2]), torch.tensor([50.0])


def residual_parameters(channels_in: int, channels_out: int) -> int:
    norms = 2 * channels_in + 2 * channels_out
    convolutions = 9 * channels_in * channels_out + channels_out + 9 * channels_out**2 + channels_out
    modulation = (EMBEDDING + 1) * 2 * channels_out
    skip = 0 if channels_in == channels_out else (channels_in + 1) * channels_out
    return norms + convolutions + modulation + skip


def residual_flops(channels_in: int, channels_out: int, positions: int) -> int:
    skip = 0 if channels_in == channels_out else channels_in * channels_out
    convolutions = positions * (9 * channels_in * channels_out + 9 * channels_out**2 + skip)
    return 2 * (convolutions + EMBEDDING * 2 * channels_out)


@pytest.mark.parametrize(("skips", "read_on_the_way_up"), [("block", 2 * NARROW), ("residual", NARROW)])
def test_parameters_equal_a_hand_count(skips: str, read_on_the_way_up: int) -> None:
    scalar = (64 + 1) * EMBEDDING + (EMBEDDING + 1) * EMBEDDING
    conditioning = 2 * scalar + 5 * EMBEDDING  # noise level, augmentation level, five labels
    enter = 2 * 2 * 6 * NARROW + NARROW
    down = residual_parameters(NARROW, NARROW) + (NARROW + 1) * WIDE
    attention = (WIDE + 1) * 3 * WIDE + (WIDE + 1) * WIDE
    perceptron = (WIDE + 1) * 3 * WIDE + (3 * WIDE + 1) * WIDE
    transformer = LOW * WIDE + 2 * ((EMBEDDING + 1) * 4 * WIDE + attention + perceptron)
    up = WIDE * NARROW + residual_parameters(read_on_the_way_up, NARROW)
    leave = 2 * NARROW + 9 * NARROW * 3 * 4 + 3 * 4
    net = net_of(SPEC.model_copy(update={"skips": skips}))
    counted = sum(parameter.numel() for parameter in net.parameters())
    assert counted == conditioning + enter + down + transformer + up + leave


@pytest.mark.parametrize(("skips", "read_on_the_way_up"), [("block", 2 * NARROW), ("residual", NARROW)])
def test_flops_equal_a_hand_count(skips: str, read_on_the_way_up: int) -> None:
    conditioning = 2 * 2 * (64 * EMBEDDING + EMBEDDING**2)
    enter = 2 * HIGH * 2 * 2 * 6 * NARROW
    down = residual_flops(NARROW, NARROW, HIGH) + 2 * LOW * NARROW * WIDE
    products = LOW * (3 + 1 + 3 + 3) * WIDE**2  # qkv, out, both layers of the perceptron
    attention = 2 * LOW * LOW * WIDE  # queries with keys, weights with values
    transformer = 2 * 2 * (EMBEDDING * 4 * WIDE + products + attention)
    up = 2 * LOW * WIDE * NARROW + residual_flops(read_on_the_way_up, NARROW, HIGH)
    leave = 2 * HIGH * 9 * NARROW * 3 * 4
    net = net_of(SPEC.model_copy(update={"skips": skips}))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(*inputs())
    assert counter.get_total_flops() == conditioning + enter + down + transformer + up + leave


def features_of(net: nn.Module) -> dict[str, Tensor]:
    """What ``enter`` gives and what ``leave`` gets."""
    seen: dict[str, Tensor] = {}
    net.enter.register_forward_hook(lambda module, given, made: seen.__setitem__("entered", made))
    net.leave.register_forward_pre_hook(lambda module, given: seen.__setitem__("leaving", given[0]))
    with torch.no_grad():
        net(*inputs())
    return seen


def test_a_residual_skip_passes_the_map_on_where_the_levels_below_do_nothing() -> None:
    spec = SPEC.model_copy(update={"skips": "residual", "multipliers": (1, 2, 4), "blocks": (1, 2)})
    net = net_of(spec)
    nn.init.zeros_(net.transformer.position)
    seen = features_of(net)
    assert torch.equal(seen["leaving"], seen["entered"])


def test_a_residual_skip_adds_what_the_level_below_changed() -> None:
    net = net_of(SPEC.model_copy(update={"skips": "residual", "blocks": (0,)}))
    nn.init.constant_(net.transformer.position, 0.5)  # all that a fresh transformer adds to its input
    seen = features_of(net)
    added = net.narrow[0](torch.full((1, WIDE, 4, 4), 0.5))
    expected = seen["entered"] + added.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(seen["leaving"], expected)


def test_attention_reaches_every_position_and_knows_where_it_is() -> None:
    net = net_of(SPEC)
    low = torch.randn(1, WIDE, 4, 4)
    embedding = torch.randn(1, EMBEDDING)
    for block in net.transformer.blocks:
        nn.init.normal_(block.mixed.weight, std=0.2)
    corner = low.clone()
    corner[..., 0, 0] += 1.0
    with torch.no_grad():
        change = net.transformer(corner, embedding) - net.transformer(low, embedding)
        turned = net.transformer(low.flip(3), embedding).flip(3) - net.transformer(low, embedding)
    assert change.abs().amax(dim=1).min() > 0
    assert turned.abs().max() > 1e-4, "without positions attention would not see the flip"


def test_the_large_net_is_near_its_published_cost() -> None:
    """Simple diffusion's U-ViT L: 2 to 2.5 billion parameters, 555 billion multiply-adds. Its layout is remembered."""
    spec = UViTSpec(channels=128, multipliers=(1, 2, 4, 16), blocks=2, depth=36, head_width=128, embedding=1024)
    with torch.device("meta"):
        net = build_net(spec, size=128, channels_in=3, channels_out=3, labels=1000, levels_embedded=False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.empty(1, 3, 128, 128), torch.empty(1), torch.empty(1, dtype=torch.int64))
    assert 2.0e9 < sum(parameter.numel() for parameter in net.parameters()) < 2.5e9
    assert counter.get_total_flops() / 2e9 == pytest.approx(555, rel=0.02)
