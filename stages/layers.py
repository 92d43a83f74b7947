"""The operators a net is made of: embeddings, residual blocks, attention, changes of resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.recomputing import Recomputable

Modulation = Literal["scale_shift", "add"]


def sinusoid(values: Tensor, width: int) -> Tensor:
    """[cos, sin] of ``values`` (B,) at ``width / 2`` frequencies from 1 down to 1/10000: (B, width) float32.

    The values are taken as they come; a span of roughly 1000 units makes use of all frequencies.
    """
    half = width // 2
    rates = torch.exp(-math.log(10000.0) * torch.arange(half, device=values.device, dtype=torch.float32) / half)
    angles = values.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero_(module: nn.Module) -> nn.Module:
    """Set the parameters of ``module`` to zero, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with the most groups, up to 32, that leave at least 4 channels in each."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels // g >= 4 or g == 1))
    return nn.GroupNorm(groups, channels, eps=1e-5)


def modulated(norm: nn.GroupNorm, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``norm(h) (1 + scale) + shift``: (B, C, H, W), (B, C), (B, C) -> (B, C, H, W).

    In one pass: each image has a scale and shift of its own, so all are taken for one image of B C channels, whose norm
    has them for its weights. A pass over the map that only multiplies and adds costs as much as the norm itself.
    """
    batch, channels = h.shape[:2]
    gain = 1.0 + scale.to(norm.weight)  # in float32, whatever autocast made of them
    weight = (norm.weight * gain).flatten()
    bias = torch.addcmul(shift.to(gain), norm.bias, gain).flatten()
    joined = F.group_norm(h.reshape(1, batch * channels, *h.shape[2:]), batch * norm.num_groups, weight, bias, norm.eps)
    return joined.reshape(h.shape)


def halve(h: Tensor) -> Tensor:
    """Mean of each 2x2 square: (B, C, H, W) -> (B, C, H/2, W/2)."""
    if h.device.type != "cpu":
        return F.avg_pool2d(h, 2)
    rows = h[:, :, ::2] + h[:, :, 1::2]  # whole rows at once: four times as fast as the pool there, also backwards
    return (rows[..., ::2] + rows[..., 1::2]) * 0.25


def double(h: Tensor) -> Tensor:
    """Each value four times: (B, C, H, W) -> (B, C, 2H, 2W)."""
    if h.device.type != "cpu":
        return F.interpolate(h, scale_factor=2, mode="nearest")
    rows = torch.stack([h, h], dim=4).flatten(3)
    return torch.stack([rows, rows], dim=3).flatten(2, 3)


class NoiseEmbedding(nn.Module):
    """Scalar noise level (B,) -> (B, width): sinusoid of ``features`` values, then a two-layer perceptron."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, noise: Tensor) -> Tensor:
        return self.mlp(sinusoid(noise, self.features))


class Conditioning(nn.Module):
    """All that a net is told besides the images, as one vector: the sum of three embeddings.

    ``labels`` counts the rows of the label embedding; one of them may stand for "no label".
    """

    def __init__(self, *, labels: int, features: int, width: int, levels_embedded: bool) -> None:
        super().__init__()
        self.noise = NoiseEmbedding(features, width)
        self.label = nn.Embedding(labels, width)
        self.aug_level = NoiseEmbedding(features, width) if levels_embedded else None

    def forward(self, noise: Tensor, label: Tensor, aug: Tensor | None) -> Tensor:
        """Noise level (B,), label (B,) and augmentation level (B,) or None -> (B, width)."""
        embedding = self.noise(noise) + self.label(label)
        if self.aug_level is not None:
            assert aug is not None, "a net with an embedding of the augmentation level needs aug"
            embedding = embedding + self.aug_level(aug)
        return embedding


class ResidualBlock(Recomputable):
    """norm, SiLU, conv, norm modulated by the embedding, SiLU, dropout, conv; plus the input (ADM's block).

    ``modulation``: the embedding scales and shifts after the second norm, or is added before it (DDPM's block).
    ``resample`` (``halve`` or ``double``) makes it a change of resolution too: it acts on both branches,
    after the first norm and SiLU (BigGAN).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        embedding: int,
        dropout: float,
        modulation: Modulation,
        resample: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.scaled = modulation == "scale_shift"
        self.norm_in = group_norm(channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out if self.scaled else channels_out)
        self.norm_out = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def side(self, h: Tensor) -> int:
        return h.shape[-1] * (2 if self.resample is double else 1)

    def compute(self, h: Tensor, embedding: Tensor) -> Tensor:
        """(B, channels_in, H, W), (B, embedding) -> (B, channels_out, H, W), or half or twice the sides."""
        y = F.silu(self.norm_in(h))
        if self.resample is not None:
            h, y = self.resample(h), self.resample(y)
        y = self.conv_in(y)
        modulation = self.modulation(F.silu(embedding))
        if self.scaled:
            y = modulated(self.norm_out, y, *modulation.chunk(2, dim=1))
        else:
            y = self.norm_out(y + modulation[:, :, None, None])
        y = self.conv_out(self.dropout(F.silu(y)))
        return self.skip(h) + y


FEW_TOKENS = 256  # whose square may stand in memory


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Multi-head self-attention of (B, N, 3C), laid out [q, k, v][head][channel]: (B, N, C)."""
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    few = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= FEW_TOKENS
    # Unless somebody asks for torch's own kernel (sdpa_kernel): it multiplies in float32 there, at half the speed.
    if few and (torch.compiler.is_compiling() or torch.backends.cuda.math_sdp_enabled()):
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
        mixed = scores.float().softmax(dim=3).to(q.dtype) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).flatten(2)


class Attention(Recomputable):
    """Self-attention over all positions of a feature map, added to its input."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_(nn.Linear(channels, channels))

    def compute(self, h: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        tokens = self.norm(h).flatten(2).transpose(1, 2)  # (B, H W, C)
        mixed = attend(self.qkv(tokens), self.heads)
        return h + self.out(mixed).transpose(1, 2).reshape(h.shape)


class Middle(nn.Module):
    """What stands between the way down and the way up: block, attention (or not), block."""

    def __init__(
        self, channels: int, *, embedding: int, dropout: float, modulation: Modulation, head_width: int | None
    ) -> None:
        super().__init__()
        block = partial(ResidualBlock, channels, channels, embedding=embedding, dropout=dropout, modulation=modulation)
        self.block_in = block()
        self.attention = nn.Identity() if head_width is None else Attention(channels, head_width)
        self.block_out = block()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W), (B, embedding) -> (B, C, H, W)."""
        return self.block_out(self.attention(self.block_in(h, embedding)), embedding)


def in_a_row(channels_in: int, channels_out: int, count: int) -> list[int]:
    """Input channels of ``count`` blocks that follow each other, all of which give ``channels_out``."""
    return ([channels_in] + [channels_out] * (count - 1))[:count]


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where it is asked for."""

    def __init__(
        self,
        channels: Sequence[int],
        channels_out: int,
        *,
        embedding: int,
        dropout: float,
        modulation: Modulation,
        head_width: int | None,
    ) -> None:
        """``channels`` are the input channels of each block in turn; all give ``channels_out``."""
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(c, channels_out, embedding=embedding, dropout=dropout, modulation=modulation)
            for c in channels
        )
        self.attention = nn.ModuleList(
            nn.Identity() if head_width is None else Attention(channels_out, head_width) for _ in channels
        )

    def __len__(self) -> int:
        return len(self.blocks)

    def step(self, index: int, h: Tensor, embedding: Tensor) -> Tensor:
        """Block ``index`` and its attention: (B, C, H, W) -> (B, channels_out, H, W)."""
        return self.attention[index](self.blocks[index](h, embedding))
