"""Invertible wavelet transforms: an image as a smaller map of more channels, and back, without loss.

One level splits every row, then every column, into a low and a high band of half the length. The low band of
both is split again at the next level; the three high ones are folded (space to depth) down to the final side,
so that L levels turn (B, C, H, W) into (B, 4^L C, H / 2^L, W / 2^L), coarsest bands first.

Haar is orthonormal: white noise stays white noise of the same variance. CDF 5/3 (LeGall) is biorthogonal, made
of two lifting steps with symmetric extension at the borders; each band is scaled so that one level maps white
noise of variance 1 to variance 1 (away from the borders). Neighbours in its bands are then slightly correlated,
so that in three levels the variance of a band lies between 0.4 and 1.6.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Wavelet = Literal["haar", "cdf53"]

# Root of the sum of squares of the lifted filters: (-1, 2, 6, 2, -1) / 8 and (-1, 2, -1) / 2.
LOW_GAIN = math.sqrt(46) / 8
HIGH_GAIN = math.sqrt(6) / 2


def forward(images: Tensor, wavelet: Wavelet, levels: int) -> Tensor:
    """(B, C, H, W) -> (B, 4^levels C, H / 2^levels, W / 2^levels). Raises ValueError when a side does not divide."""
    if images.shape[2] % 2**levels or images.shape[3] % 2**levels:
        raise ValueError(f"{levels} wavelet levels need sides that divide by {2**levels}, not {tuple(images.shape)}")
    bands, low = [], images
    for remaining in reversed(range(levels)):
        low, details = _split_image(low, wavelet)
        bands.append(F.pixel_unshuffle(details, 2**remaining))
    return torch.cat([low, *reversed(bands)], dim=1)


def inverse(bands: Tensor, wavelet: Wavelet, levels: int) -> Tensor:
    """The inverse of ``forward``: (B, 4^levels C, h, w) -> (B, C, 2^levels h, 2^levels w)."""
    channels = bands.shape[1] // 4**levels
    low, *details = bands.split([channels] + [3 * channels * 4**level for level in range(levels)], dim=1)
    for level, detail in enumerate(details):
        low = _merge_image(low, F.pixel_shuffle(detail, 2**level), wavelet)
    return low


def _split_image(images: Tensor, wavelet: Wavelet) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> the low band (B, C, H/2, W/2) and the three others (B, 3C, H/2, W/2)."""
    low, high = _split(images, wavelet)
    low_low, low_high = (band.mT for band in _split(low.mT, wavelet))
    high_low, high_high = (band.mT for band in _split(high.mT, wavelet))
    return low_low, torch.cat([low_high, high_low, high_high], dim=1)


def _merge_image(low_low: Tensor, details: Tensor, wavelet: Wavelet) -> Tensor:
    low_high, high_low, high_high = details.chunk(3, dim=1)
    low = _merge(low_low.mT, low_high.mT, wavelet).mT
    high = _merge(high_low.mT, high_high.mT, wavelet).mT
    return _merge(low, high, wavelet)


def _split(x: Tensor, wavelet: Wavelet) -> tuple[Tensor, Tensor]:
    """(..., 2n) -> low and high band of the last axis, (..., n) each."""
    even, odd = x[..., ::2], x[..., 1::2]
    if wavelet == "haar":
        return (even + odd) / math.sqrt(2), (even - odd) / math.sqrt(2)
    high = odd - (even + _next(even)) / 2  # how far each odd value is from the line between its neighbours
    low = even + (_previous(high) + high) / 4  # keeps the mean of the signal
    return low / LOW_GAIN, high / HIGH_GAIN


def _merge(low: Tensor, high: Tensor, wavelet: Wavelet) -> Tensor:
    if wavelet == "haar":
        even, odd = (low + high) / math.sqrt(2), (low - high) / math.sqrt(2)
    else:
        low, high = low * LOW_GAIN, high * HIGH_GAIN
        even = low - (_previous(high) + high) / 4
        odd = high + (even + _next(even)) / 2
    return torch.stack([even, odd], dim=-1).flatten(-2)


def _next(x: Tensor) -> Tensor:
    """x[i + 1]; at the end the mirror image, which is x[-1]."""
    return torch.cat([x[..., 1:], x[..., -1:]], dim=-1)


def _previous(x: Tensor) -> Tensor:
    """x[i - 1]; at the start the mirror image, which is x[0]."""
    return torch.cat([x[..., :1], x[..., :-1]], dim=-1)
