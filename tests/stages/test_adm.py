"""ADM's five published nets, tensor by tensor; DDPM's and SR3's by their published sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stages.net_specs import ADMSpec
from stages.nets import build_net

CLASSES_OF_IMAGENET = 1000

# Settings, parameters, and the digest of all tensor shapes of openai/guided-diffusion's released models.
PUBLISHED: dict[str, tuple[int, int, dict[str, Any], int, str]] = {
    "64": (
        64,
        3,
        {"channels": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (32, 16, 8), "head_width": 64},
        295_904_454,
        "bf08f20e0b59f7991dc51c244f1afc260dbf8053ed74277919fd8ceaea24f830",
    ),
    "128": (
        128,
        3,
        {"channels": 256, "multipliers": (1, 1, 2, 3, 4), "attention": (32, 16, 8), "heads": 4},
        421_529_606,
        "83f83336c1b906f865258d3529e826eb8355407e9c4029cd7b542188a1ed041b",
    ),
    "256": (
        256,
        3,
        {"channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "attention": (32, 16, 8), "head_width": 64},
        553_838_086,
        "7809fd8c509e3eefe456a488dc60b039ff354b5f7a22bec5539aeda58998c8f7",
    ),
    "64 to 256": (
        256,
        6,
        {"channels": 192, "multipliers": (1, 1, 2, 2, 4, 4), "attention": (32, 16, 8), "heads": 4},
        311_795_910,
        "72eb0fe74895a4b9fcaa6d912816d78711257ff91c318c1f6d1bbbce57b14dd5",
    ),
    "128 to 512": (
        512,
        6,
        {"channels": 192, "multipliers": (1, 1, 2, 2, 4, 4), "attention": (32, 16), "head_width": 64},
        308_835_270,
        "1682d4c76aaa769ae6854c9529cea301918151dcde0cbdac609e5767430ecbab",
    ),
}


def shapes_of(
    size: int, channels_in: int, channels_out: int, labels: int, settings: dict[str, Any]
) -> list[torch.Size]:
    """Shapes of the parameters of a net without an embedding of the augmentation level, computed without memory."""
    with torch.device("meta"):
        net = build_net(
            ADMSpec(**settings),
            size=size,
            channels_in=channels_in,
            channels_out=channels_out,
            labels=labels,
            levels_embedded=False,
        )
    return [parameter.shape for parameter in net.parameters()]


def digest_of(shapes: Iterable[torch.Size]) -> str:
    """Of the sorted shapes, such as 192x6x3x3. (A 1x1 convolution over tokens, (a, b, 1), would count as (a, b).)"""
    return hashlib.sha256("\n".join(sorted("x".join(map(str, shape)) for shape in shapes)).encode()).hexdigest()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_nets_match_tensor_by_tensor(name: str) -> None:
    size, channels_in, settings, parameters, digest = PUBLISHED[name]
    shapes = shapes_of(size, channels_in, 6, CLASSES_OF_IMAGENET, settings)
    assert sum(shape.numel() for shape in shapes) == parameters
    assert digest_of(shapes) == digest


def test_the_256_px_net_has_its_published_multiplications() -> None:
    size, channels_in, settings, _, _ = PUBLISHED["256"]
    with torch.device("meta"):
        net = build_net(
            ADMSpec(**settings),
            size=size,
            channels_in=channels_in,
            channels_out=6,
            labels=CLASSES_OF_IMAGENET,
            levels_embedded=False,
        )
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.empty(1, channels_in, size, size), torch.empty(1), torch.empty(1, dtype=torch.int64))
    assert counter.get_total_flops() / 2e9 == pytest.approx(1120, abs=0.5)  # papers count a multiply-add as one


def test_ddpm_for_cifar_has_its_published_parameters() -> None:
    settings = {"channels": 128, "multipliers": (1, 2, 2, 2), "attention": (16,), "heads": 1}
    shapes = shapes_of(32, 3, 3, 1, {**settings, "resampling": "conv", "modulation": "add"})
    row_of_labels = 4 * 128  # DDPM has no labels, our nets at least one
    assert sum(shape.numel() for shape in shapes) - row_of_labels == 35_746_307


@pytest.mark.parametrize(
    ("size", "channels", "multipliers", "blocks", "millions"),
    [
        (256, 128, (1, 2, 4, 4, 8, 8), 3, 625),
        (128, 128, (1, 2, 4, 8, 8), 3, 550),
        (512, 64, (1, 2, 4, 8, 8, 16, 16), 3, 625),
        (1024, 16, (1, 2, 4, 8, 16, 32, 32, 32), 2, 150),
    ],
)
def test_sr3_is_near_its_published_size(
    size: int, channels: int, multipliers: tuple[int, ...], blocks: int, millions: int
) -> None:
    settings = {"channels": channels, "multipliers": multipliers, "blocks": blocks, "attention": (16,), "heads": 1}
    total = sum(shape.numel() for shape in shapes_of(size, 6, 3, 1, settings))
    assert total == pytest.approx(millions * 1e6, rel=0.05)


def small(**changes: object) -> nn.Module:
    settings = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "heads": 2, **changes}
    return build_net(ADMSpec(**settings), size=8, channels_in=3, channels_out=3, labels=2, levels_embedded=False)


def test_heads_divide_the_channels_without_adding_parameters() -> None:
    counts = [[p.shape for p in small(heads=heads, attention=(8, 4)).parameters()] for heads in (1, 2, 4)]
    assert counts[0] == counts[1] == counts[2]
    assert small(heads=None, head_width=4).middle.attention.heads == 4
    assert small(heads=2).middle.attention.heads == 2


def test_every_map_on_the_way_down_is_read_on_the_way_up() -> None:
    net = small(multipliers=(1, 2, 3), blocks=2)
    down = 1 + 3 * 2 + 2  # entry, two blocks at each of three levels, two downsamplings
    assert sum(len(level) for level in net.up) == down
