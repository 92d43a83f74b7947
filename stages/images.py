"""Value ranges and sizes of images: uint8 [0, 255] outside, float [-1, 1] inside."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Upsampling = Literal["bilinear", "bicubic", "nearest"]


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) in [0, 255] -> float32 (B, C, H, W) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """float (B, C, H, W), clipped to [-1, 1] -> uint8 (B, H, W, C), rounded to nearest."""
    return ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def downsample(images: Tensor, size: int) -> Tensor:
    """Mean over square blocks, (B, C, H, W) -> (B, C, size, size); H must be a multiple of ``size``.

    The mean of means is the mean, so 32 -> 16 -> 8 equals 32 -> 8: every stage of a cascade sees the same
    small image whichever size it started from.
    """
    factor, rest = divmod(images.shape[-1], size)
    if rest:
        raise ValueError(f"{images.shape[-1]} px is not a multiple of {size} px")
    return images if factor == 1 else F.avg_pool2d(images, factor)


def upsample(images: Tensor, size: int, mode: Upsampling = "bilinear") -> Tensor:
    """(B, C, h, w) -> (B, C, size, size) with half-pixel centres; bicubic is sharper and may leave the range."""
    if images.shape[-1] == size:
        return images
    align = None if mode == "nearest" else False
    return F.interpolate(images, size=(size, size), mode=mode, align_corners=align)
