"""How images enter and leave a net: at their own size, or shrunk by ``patch`` with their pixels as channels.

``conv``: a convolution whose stride is its kernel; at the end pixel shuffle. ``haar`` and ``cdf53``: an
invertible wavelet transform and a 3x3 convolution; at the end the same in reverse (simple diffusion, section 3.3).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from stages import wavelets
from stages.layers import group_norm, zero_

Patching = Literal["conv", "haar", "cdf53"]


class Bands(nn.Module):
    """Images -> the bands of their wavelet transform, or back where ``inverse``."""

    def __init__(self, wavelet: wavelets.Wavelet, levels: int, *, inverse: bool) -> None:
        super().__init__()
        self.wavelet, self.levels = wavelet, levels
        self.transform = wavelets.inverse if inverse else wavelets.forward

    def forward(self, images: Tensor) -> Tensor:
        # In float32 also under autocast: a transform is sums and differences, whose digits bf16 would lose.
        return self.transform(images.float(), self.wavelet, self.levels)


def way_in(channels_in: int, channels: int, *, patch: int, patching: Patching) -> nn.Module:
    """(B, channels_in, H, W) -> (B, channels, H / patch, W / patch)."""
    if patch == 1:
        return nn.Conv2d(channels_in, channels, 3, padding=1)
    if patching == "conv":
        return nn.Conv2d(channels_in, channels, patch, stride=patch)
    return nn.Sequential(
        Bands(patching, _levels(patch), inverse=False), nn.Conv2d(channels_in * patch**2, channels, 3, padding=1)
    )


def way_out(channels: int, channels_out: int, *, patch: int, patching: Patching) -> nn.Sequential:
    """norm, SiLU and a convolution that starts at zero: (B, channels, h, w) -> (B, channels_out, patch h, patch w)."""
    convolution = zero_(nn.Conv2d(channels, channels_out * patch**2, 3, padding=1))
    parts: list[nn.Module] = [group_norm(channels), nn.SiLU(), convolution]
    if patch > 1 and patching == "conv":
        parts.append(nn.PixelShuffle(patch))
    elif patching != "conv":
        parts.append(Bands(patching, _levels(patch), inverse=True))
    return nn.Sequential(*parts)


def _levels(patch: int) -> int:
    assert patch & (patch - 1) == 0, f"a wavelet shrinks by a power of two, not by {patch}"
    return patch.bit_length() - 1
