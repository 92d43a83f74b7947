"""The U-Net of Dhariwal & Nichol 2021 (ADM), whose settings also give the nets of DDPM, SR3 and CDM.

It differs from ``unet`` in that the changes of resolution are residual blocks themselves, every map on the way
down is read on the way up (the entry, each block, each downsampling), the middle always has attention, and the
sinusoid of the noise level is as wide as the first level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from stages.layers import Conditioning, Level, Middle, Modulation, ResidualBlock, double, halve, in_a_row
from stages.patches import Patching, way_in, way_out

Resampling = Literal["block", "conv", "pool"]


class Resample(nn.Module):
    """A change of resolution by ``change`` (``halve`` or ``double``): alone, in a residual block, or with a conv."""

    def __init__(
        self,
        change: Callable[[Tensor], Tensor],
        channels: int,
        *,
        embedding: int,
        resampling: Resampling,
        dropout: float,
        modulation: Modulation,
    ) -> None:
        super().__init__()
        self.change = change
        self.block: ResidualBlock | None = None
        self.conv: nn.Conv2d | None = None
        if resampling == "block":
            self.block = ResidualBlock(
                channels, channels, embedding=embedding, dropout=dropout, modulation=modulation, resample=change
            )
        elif resampling == "conv":  # on the way down its stride takes the place of the pool
            self.conv = nn.Conv2d(channels, channels, 3, padding=1, stride=2 if change is halve else 1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W), (B, embedding) -> (B, C, H/2, W/2) or (B, C, 2H, 2W)."""
        if self.block is not None:
            return self.block(h, embedding)
        if self.conv is None:
            return self.change(h)
        return self.conv(h if self.change is halve else self.change(h))


class ADM(nn.Module):
    """Images and their conditioning -> a map of the same size.

    Arguments as of ``UNet``, and: attention heads are ``head_width`` channels wide, or there are ``heads`` of them
    at every level (the other is None); ``resampling`` and ``modulation`` as in ``Resample`` and ``ResidualBlock``.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        labels: int,
        levels_embedded: bool,
        channels: int,
        embedding: int,
        multipliers: Sequence[int],
        blocks: Sequence[int],
        dropout: Sequence[float],
        attention: Sequence[int],
        head_width: int | None,
        heads: int | None,
        resampling: Resampling,
        modulation: Modulation,
        patch: int,
        patching: Patching,
    ) -> None:
        super().__init__()
        assert (head_width is None) != (heads is None), "give head_width or heads"
        self.conditioning = Conditioning(
            labels=labels, features=channels, width=embedding, levels_embedded=levels_embedded
        )
        widths = [channels * m for m in multipliers]
        head_widths = [head_width or width // cast(int, heads) for width in widths]
        attended = [head if level in attention else None for level, head in enumerate(head_widths)]
        levels = list(zip(widths, blocks, dropout, attended, strict=True))
        level = partial(Level, embedding=embedding, modulation=modulation)
        resample = partial(Resample, resampling=resampling, embedding=embedding, modulation=modulation)

        self.enter = way_in(channels_in, channels, patch=patch, patching=patching)
        skips, h = [channels], channels
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for number, (width, count, drop, head) in enumerate(levels):
            if number:
                self.shrink.append(resample(halve, h, dropout=drop))
                skips.append(h)
            self.down.append(level(in_a_row(h, width, count), width, dropout=drop, head_width=head))
            skips += [width] * count
            h = width
        self.middle = Middle(
            h, embedding=embedding, dropout=dropout[-1], modulation=modulation, head_width=head_widths[-1]
        )
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for number, (width, count, drop, head) in enumerate(reversed(levels)):
            if number:
                self.grow.append(resample(double, h, dropout=drop))
            inputs = [c + skips.pop() for c in in_a_row(h, width, count + 1)]
            self.up.append(level(inputs, width, dropout=drop, head_width=head))
            h = width
        self.leave = way_out(h, channels_out, patch=patch, patching=patching)

    def forward(self, images: Tensor, noise: Tensor, label: Tensor, aug: Tensor | None = None) -> Tensor:
        """(B, channels_in, H, W), (B,), (B,), (B,) -> (B, channels_out, H, W); ``noise``, ``aug`` as in ``UNet``."""
        embedding = self.conditioning(noise, label, aug)
        h = self.enter(images)
        skips = [h]
        for number, level in enumerate(cast(Sequence[Level], self.down)):
            if number:
                h = self.shrink[number - 1](h, embedding)
                skips.append(h)
            for index in range(len(level)):
                h = level.step(index, h, embedding)
                skips.append(h)
        h = self.middle(h, embedding)
        for number, level in enumerate(cast(Sequence[Level], self.up)):
            if number:
                h = self.grow[number - 1](h, embedding)
            for index in range(len(level)):
                h = level.step(index, torch.cat([h, skips.pop()], dim=1), embedding)
        return self.leave(h)
