"""The U-Net of DDPM and its successors, conditioned on noise level, class and augmentation level.

Down: at each level residual blocks, then a 2x mean pool. Middle: block, attention where the lowest level has it,
block. Up: nearest doubling, then residual blocks that read the outputs of the way down. Images may enter shrunk
(``patches``), which keeps wide images cheap. This is the simplest of the nets; ``adm`` is the one of the large
published models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from stages.layers import Conditioning, Level, Middle, double, halve, in_a_row
from stages.patches import Patching, way_in, way_out


class UNet(nn.Module):
    """Images and their conditioning -> a map of the same size.

    ``channels_in`` counts the noisy image and, for super-resolution, the upsampled low-res image beside it.
    ``labels`` counts the rows of the label embedding. ``levels_embedded`` adds the embedding of the augmentation
    level; ``embedding`` is the width of the embeddings. ``multipliers``, ``blocks`` and ``dropout`` have one entry
    per level, highest resolution first; ``attention`` lists the levels (0 = highest) with self-attention.
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
        head_width: int,
        patch: int,
        patching: Patching,
    ) -> None:
        super().__init__()
        self.conditioning = Conditioning(labels=labels, features=64, width=embedding, levels_embedded=levels_embedded)
        widths = [channels * m for m in multipliers]
        heads = [head_width if level in attention else None for level in range(len(widths))]
        levels = list(zip(widths, blocks, dropout, heads, strict=True))
        level = partial(Level, embedding=embedding, modulation="scale_shift")

        self.enter = way_in(channels_in, channels, patch=patch, patching=patching)
        skips, h = [channels], channels
        self.down = nn.ModuleList()
        for width, count, drop, head in levels:
            self.down.append(level(in_a_row(h, width, count), width, dropout=drop, head_width=head))
            skips += [width] * count
            h = width if count else h
        self.middle = Middle(
            h, embedding=embedding, dropout=dropout[-1], modulation="scale_shift", head_width=heads[-1]
        )
        self.up = nn.ModuleList()
        for number, (width, count, drop, head) in reversed(list(enumerate(levels))):
            count += number == 0  # the highest level also reads the entry
            inputs = [c + skips.pop() for c in in_a_row(h, width, count)]
            self.up.append(level(inputs, width, dropout=drop, head_width=head))
            h = width if count else h
        self.leave = way_out(h, channels_out, patch=patch, patching=patching)

    def forward(self, images: Tensor, noise: Tensor, label: Tensor, aug: Tensor | None = None) -> Tensor:
        """(B, channels_in, H, W), (B,), (B,), (B,) -> (B, channels_out, H, W).

        ``noise`` and ``aug`` are read by sinusoids as they come (see ``layers.sinusoid``).
        """
        embedding = self.conditioning(noise, label, aug)
        h = self.enter(images)
        skips = [h]
        for number, level in enumerate(cast(Sequence[Level], self.down)):
            if number:
                h = halve(h)
            for index in range(len(level)):
                h = level.step(index, h, embedding)
                skips.append(h)
        h = self.middle(h, embedding)
        for number, level in enumerate(cast(Sequence[Level], self.up)):
            if number:
                h = double(h)
            for index in range(len(level)):
                h = level.step(index, torch.cat([h, skips.pop()], dim=1), embedding)
        return self.leave(h)
