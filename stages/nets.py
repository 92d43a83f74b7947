"""From the description of a net to the net: the one place where a ``NetSpec`` becomes keyword arguments."""

from __future__ import annotations

from typing import Any

from torch import nn

from stages.adm import ADM
from stages.net_specs import ADMSpec, NetSpec, UViTSpec
from stages.unet import UNet
from stages.uvit import UViT


def build_net(
    spec: NetSpec, *, size: int, channels_in: int, channels_out: int, labels: int, levels_embedded: bool
) -> nn.Module:
    """A freshly initialised net for images of ``size`` px, on the default device, from the global generator.

    The net maps ``(images (B, channels_in, size, size), noise (B,), label (B,), aug (B,) | None)`` to
    (B, channels_out, size, size). Raises ValueError when images of ``size`` px cannot pass through it.
    """
    spec.check_size(size)
    common: dict[str, Any] = {
        "labels": labels,
        "levels_embedded": levels_embedded,
        "channels": spec.channels,
        "embedding": spec.embedding_width,
        "multipliers": spec.multipliers,
        "blocks": spec.blocks_per_level,
        "dropout": spec.dropouts(size),
        "head_width": spec.head_width,
        "patch": spec.patch,
        "patching": spec.patching,
    }
    if isinstance(spec, UViTSpec):
        return UViT(
            channels_in,
            channels_out,
            **common,
            grid=spec.feature_sizes(size)[-1],
            depth=spec.depth,
            mlp_ratio=spec.mlp_ratio,
            skips=spec.skips,
        )
    common["attention"] = spec.attention_levels(size)
    if isinstance(spec, ADMSpec):
        return ADM(
            channels_in,
            channels_out,
            **common,
            heads=spec.heads,
            resampling=spec.resampling,
            modulation=spec.modulation,
        )
    return UNet(channels_in, channels_out, **common)
