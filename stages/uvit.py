"""The U-ViT of simple diffusion (Hoogeboom et al. 2023): convolutions at high resolution, a transformer at low.

Where a U-Net spends its parameters on 3x3 convolutions at the lowest resolution, this net has self-attention and
perceptrons with plain residuals: nothing but matrix products, which scale. Only the convolutional levels have
long skips, of one of two kinds:

    block       each residual block on the way up reads the output of its mirror image on the way down
    residual    one skip per downsampling and none between blocks (SiD2):  h = up(low_out - low_in) + high
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.layers import Conditioning, Level, attend, double, halve, zero_
from stages.patches import Patching, way_in, way_out
from stages.recomputing import Recomputable

Skips = Literal["block", "residual"]


class TransformerBlock(Recomputable):
    """h + attention(norm h), then h + perceptron(norm h); the embedding scales and shifts after both norms."""

    def __init__(self, width: int, embedding: int, *, head_width: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads = width // head_width
        self.modulation = nn.Linear(embedding, 4 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # the modulation is its scale and shift
        self.dropout = nn.Dropout(dropout)
        self.qkv = nn.Linear(width, 3 * width)
        self.mixed = zero_(nn.Linear(width, width))
        self.hidden = nn.Linear(width, mlp_ratio * width)
        self.out = zero_(nn.Linear(mlp_ratio * width, width))

    def side(self, tokens: Tensor) -> int:
        return math.isqrt(tokens.shape[1])

    def compute(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """(B, N, width), (B, embedding) -> (B, N, width)."""
        scale, shift, mlp_scale, mlp_shift = self.modulation(F.silu(embedding))[:, None].chunk(4, dim=2)
        y = torch.addcmul(shift, self.norm(tokens), 1.0 + scale)
        tokens = tokens + self.mixed(self.dropout(attend(self.qkv(y), self.heads)))
        y = torch.addcmul(mlp_shift, self.norm(tokens), 1.0 + mlp_scale)
        return tokens + self.out(self.dropout(F.gelu(self.hidden(y))))


class Transformer(nn.Module):
    """A feature map of ``grid`` x ``grid`` positions as tokens, with a learned embedding of each position."""

    def __init__(
        self, width: int, embedding: int, *, grid: int, depth: int, head_width: int, mlp_ratio: int, dropout: float
    ) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(grid * grid, width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, embedding, head_width=head_width, mlp_ratio=mlp_ratio, dropout=dropout)
            for _ in range(depth)
        )

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """(B, width, grid, grid), (B, embedding) -> (B, width, grid, grid)."""
        tokens = h.flatten(2).transpose(1, 2) + self.position  # (B, grid^2, width)
        for block in self.blocks:
            tokens = block(tokens, embedding)
        return tokens.transpose(1, 2).reshape(h.shape)


class UViT(nn.Module):
    """Images of one size and their conditioning -> a map of the same size.

    Arguments as of ``UNet``, but the last of ``multipliers`` is the transformer's width and the last of ``dropout``
    its dropout, while ``blocks`` counts the residual blocks of the levels above it. ``grid`` is the side of the map
    that the transformer sees: the images' side / patch / 2^(levels above). ``mlp_ratio`` is the perceptrons' hidden
    width over the transformer's.
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
        grid: int,
        depth: int,
        head_width: int,
        mlp_ratio: int,
        skips: Skips,
        patch: int,
        patching: Patching,
    ) -> None:
        super().__init__()
        self.blockwise = skips == "block"
        self.conditioning = Conditioning(labels=labels, features=64, width=embedding, levels_embedded=levels_embedded)
        widths = [channels * m for m in multipliers]
        levels = list(zip(pairwise(widths), blocks, dropout[:-1], strict=True))
        level = partial(Level, embedding=embedding, modulation="scale_shift", head_width=None)

        self.enter = way_in(channels_in, widths[0], patch=patch, patching=patching)
        self.down, self.widen = nn.ModuleList(), nn.ModuleList()
        for (width, lower), count, drop in levels:
            self.down.append(level([width] * count, width, dropout=drop))
            self.widen.append(nn.Conv2d(width, lower, 1))
        self.transformer = Transformer(
            widths[-1],
            embedding,
            grid=grid,
            depth=depth,
            head_width=head_width,
            mlp_ratio=mlp_ratio,
            dropout=dropout[-1],
        )
        self.narrow, self.up = nn.ModuleList(), nn.ModuleList()
        for (width, lower), count, drop in reversed(levels):
            self.narrow.append(nn.Conv2d(lower, width, 1, bias=False))
            self.up.append(level([2 * width if self.blockwise else width] * count, width, dropout=drop))
        self.leave = way_out(widths[0], channels_out, patch=patch, patching=patching)

    def forward(self, images: Tensor, noise: Tensor, label: Tensor, aug: Tensor | None = None) -> Tensor:
        """(B, channels_in, H, W), (B,), (B,), (B,) -> (B, channels_out, H, W); ``noise``, ``aug`` as in ``UNet``."""
        embedding = self.conditioning(noise, label, aug)
        h = self.enter(images)
        skips: list[Tensor] = []
        borders: list[tuple[Tensor, Tensor]] = []  # (high, low_in) of each downsampling
        for level, widen in zip(cast(Sequence[Level], self.down), self.widen, strict=True):
            for index in range(len(level)):
                h = level.step(index, h, embedding)
                if self.blockwise:
                    skips.append(h)
            low_in = widen(halve(h))
            borders.append((h, low_in))
            h = low_in
        h = self.transformer(h, embedding)
        for level, narrow in zip(cast(Sequence[Level], self.up), self.narrow, strict=True):
            high, low_in = borders.pop()
            h = double(narrow(h)) if self.blockwise else double(narrow(h - low_in)) + high
            for index in range(len(level)):
                h = level.step(index, torch.cat([h, skips.pop()], dim=1) if self.blockwise else h, embedding)
        return self.leave(h)
