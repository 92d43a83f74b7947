"""The U-Net of DDPM and its successors, conditioned on noise level, class and augmentation level.

Down: at each level residual blocks, then a 2x mean pool. Middle: block, attention, block. Up: nearest
doubling, then residual blocks that read the outputs of the way down. Optional square patches at the input
(a strided convolution) and pixel shuffle at the output keep wide images cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.layers import Attention, Level, NoiseEmbedding, ResidualBlock, group_norm, zero_


class UNet(nn.Module):
    """Images and their conditioning -> a map of the same size.

    ``channels_in`` counts the noisy image and, for super-resolution, the upsampled low-res image beside it.
    ``attention`` lists the levels (0 = highest resolution) with self-attention. A label of ``classes`` means
    "no label". ``levels_embedded`` adds the embedding of the augmentation level.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        classes: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: Sequence[int],
        attention: Sequence[int] = (),
        head_width: int = 32,
        dropout: float = 0.0,
        patch: int = 1,
        levels_embedded: bool = False,
    ) -> None:
        super().__init__()
        self.patch = patch
        width = 4 * channels
        self.noise = NoiseEmbedding(width)
        self.label = nn.Embedding(classes + 1, width)
        self.aug_level = NoiseEmbedding(width) if levels_embedded else None
        widths = [channels * m for m in multipliers]
        heads = [head_width if level in attention else None for level in range(len(widths))]

        self.enter = nn.Conv2d(
            channels_in, channels, kernel_size=3 if patch == 1 else patch, stride=patch, padding=1 if patch == 1 else 0
        )
        skips, h = [channels], channels
        self.down = nn.ModuleList()
        for w, count, head in zip(widths, blocks, heads, strict=True):
            self.down.append(
                Level([h] + [w] * (count - 1) if count else [], w, width, dropout=dropout, head_width=head)
            )
            skips += [w] * count
            h = w if count else h
        self.middle_in = ResidualBlock(h, h, width, dropout)
        self.middle_attention = Attention(h, head_width) if heads[-1] else nn.Identity()
        self.middle_out = ResidualBlock(h, h, width, dropout)
        self.up = nn.ModuleList()
        for level in reversed(range(len(widths))):
            count = blocks[level] + (level == 0)
            inputs = []
            for _ in range(count):
                inputs.append(h + skips.pop())
                h = widths[level]
            self.up.append(Level(inputs, widths[level], width, dropout=dropout, head_width=heads[level]))
        self.norm = group_norm(h)
        self.leave = zero_(nn.Conv2d(h, channels_out * patch**2, 3, padding=1))

    def embed(self, noise: Tensor, label: Tensor, aug_logsnr: Tensor | None) -> Tensor:
        """Sum of the embeddings of noise level (B,), label (B,) and augmentation level (B,): (B, width)."""
        embedding = self.noise(noise) + self.label(label)
        if self.aug_level is not None:
            assert aug_logsnr is not None, "a net with an augmentation embedding needs aug_logsnr"
            embedding = embedding + self.aug_level(aug_logsnr)
        return embedding

    def forward(self, images: Tensor, noise: Tensor, label: Tensor, aug_logsnr: Tensor | None = None) -> Tensor:
        """(B, channels_in, H, W), (B,), (B,), (B,) -> (B, channels_out, H, W)."""
        embedding = self.embed(noise, label, aug_logsnr)
        h = self.enter(images)
        skips = [h]
        for number, level in enumerate(cast(Sequence[Level], self.down)):
            if number:
                h = F.avg_pool2d(h, 2)
            for index in range(len(level.blocks)):
                h = level.step(index, h, embedding)
                skips.append(h)
        h = self.middle_out(self.middle_attention(self.middle_in(h, embedding)), embedding)
        for number, level in enumerate(cast(Sequence[Level], self.up)):
            if number:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
            for index in range(len(level.blocks)):
                h = level.step(index, torch.cat([h, skips.pop()], dim=1), embedding)
        h = self.leave(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h
