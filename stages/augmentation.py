"""Conditioning augmentation: what is done to the low-resolution image before a super-resolution net sees it.

*Blur* (training only): a small Gaussian kernel with a random width, on a share of the examples.
*Gaussian noise at level s*: the forward process of the stage below, run to time s, on the image at its own
size (before upsampling). In sampling it is either *non-truncated* (finish the low-res chain, then noise its
image to s) or *truncated* (stop the low-res chain at s and hand over z_s); under an exact model both have
the same distribution (Ho et al. 2021, section 4), which is why one set of weights serves both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.process import diffuse


def noised_low_res(low_res: Tensor, eps: Tensor, level: Tensor, logsnr: Tensor) -> Tensor:
    """``z_s`` of the low-res images (B, C, h, w); where ``level`` (B,) is 0 the image is left exactly as it is."""
    noised = diffuse(low_res, eps, logsnr)
    return torch.where((level > 0).reshape(-1, 1, 1, 1), noised, low_res)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur each image (B, C, H, W) with its own ``sigma`` (B,) in px; sigma = 0 leaves the image unchanged.

    Separable kernel of odd width ``kernel``, normalised, with half-sample symmetric edges, so the mean of
    every image is conserved. Needs ``kernel // 2 <= min(H, W)``.
    """
    reach = kernel // 2
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    width = sigma.to(images.dtype).clamp_min(1e-6).reshape(-1, 1)
    weights = torch.softmax(-0.5 * (offsets / width) ** 2, dim=1)  # (B, kernel)
    for axis in (-1, -2):
        size = images.shape[axis]
        index = torch.arange(-reach, size + reach, device=images.device)
        index = torch.where(index < 0, -1 - index, index)
        index = torch.where(index >= size, 2 * size - 1 - index, index)
        padded = images.index_select(axis, index)
        windows = padded.unfold(axis, kernel, 1)  # (B, C, H, W, kernel)
        # A plain sum: a matrix product would be taken in bf16 under autocast, and the mean would drift.
        images = (windows * weights[:, None, None, None, :]).sum(-1)
    return images
