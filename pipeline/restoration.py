"""Scores of super-resolution against the image that was lost: PSNR, SSIM, consistency. And the node of their means.

PSNR and SSIM ask for the one image behind a low-res input, of which a diffusion model draws one of many: they favour
the blurred mean of all, and stand beside FID and accuracy, not in their place. Consistency asks only that the output,
shrunk again, is the input. All are of one image at a time; a score is their mean.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.dag import Task
from stages.images import downsample, to_float, to_uint8, upsample

Rows = npt.NDArray[np.float32]

FIGURES = ("psnr", "bicubic_psnr", "ssim", "bicubic_ssim", "consistency", "chained_consistency")
WINDOW, SIGMA = 11, 1.5  # px, of the Gaussian window of SSIM
K1, K2 = 0.01, 0.03
# Two images that round to the same 8 bits differ by this much at least as far as anyone can know; so no PSNR is
# infinite, and 58.9 dB is the largest.
ROUNDING = 1.0 / (12.0 * 255.0**2)


def squared_error(images: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of images (B, C, H, W) in [-1, 1], taken for values in [0, 1]: (B,)."""
    return ((images.double() - truth.double()) / 2.0).square().flatten(1).mean(1)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of 8-bit RGB images, (B,): ``-10 log10 MSE`` over all channels, MSE in [0, 1].

    Both are float (B, C, H, W) in [-1, 1] and should hold 8-bit values; equal images have 58.9 dB (see ``ROUNDING``).
    """
    return -10.0 * torch.log10(squared_error(images, truth).clamp_min(ROUNDING))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), (B,), at most 1: the mean over windows and over the colour channels.

    (2 m_x m_y + c1) (2 s_xy + c2) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2)), c = (K L)^2, with means and
    (co)variances under a Gaussian window of 11 px, sigma 1.5, wherever it lies wholly inside. Float (B, C, H, W) in
    [-1, 1]. Raises ValueError for images smaller than the window.
    """
    if min(images.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM has a window of {WINDOW} px, too large for images of {min(images.shape[-2:])} px")
    x, y = ((side.double() + 1.0) / 2.0 for side in (images, truth))
    mean_x, mean_y = _windowed(x), _windowed(y)
    variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return similarity.flatten(1).mean(1)


def _windowed(images: Tensor) -> Tensor:
    """Means under the Gaussian window, (B, C, H, W) -> (B, C, H - 10, W - 10); separable, so two passes."""
    offsets = torch.arange(WINDOW, dtype=images.dtype) - WINDOW // 2
    weights = torch.softmax(-0.5 * (offsets / SIGMA) ** 2, dim=0)
    flat = images.reshape(-1, 1, *images.shape[-2:])
    blurred = F.conv2d(F.conv2d(flat, weights.reshape(1, 1, 1, -1)), weights.reshape(1, 1, -1, 1))
    return blurred.reshape(*images.shape[:2], *blurred.shape[-2:])


def consistency(images: Tensor, low_res: Tensor) -> Tensor:
    """Mean squared difference, (B,), of ``images`` mean-pooled to the size of ``low_res``, for values in [0, 1].

    Not rounded to 8 bits: mean-pooling averages that rounding away, and would leave only its error.
    """
    return squared_error(downsample(images, low_res.shape[-1]), low_res)


def restored(images: Tensor, truth: Tensor, low_res: Tensor) -> dict[str, Rows]:
    """Scores of ``images`` (B, 3, S, S) in [-1, 1] against the real ones, of whose mean-pooled copies they were made.

    Arrays (B,): psnr, ssim, and as bicubic_psnr, bicubic_ssim those of the bicubic enlargement of ``low_res``, the
    score that costs no net. No SSIM below 11 px.
    """
    found = {}
    for prefix, shown in (("", images), ("bicubic_", upsample(low_res, truth.shape[-1], "bicubic"))):
        found[f"{prefix}psnr"] = psnr(_rounded(shown), _rounded(truth)).float().numpy()
        if truth.shape[-1] >= WINDOW:
            found[f"{prefix}ssim"] = ssim(_rounded(shown), _rounded(truth)).float().numpy()
    return found


def score_restoration(task: Task) -> dict[str, Any]:
    """Graph node: means of what was measured when the ``oracle`` and ``chained`` images of a stage were drawn.

    Oracle samples were compared with the real images whose shrunken copies they were given: psnr, ssim, consistency.
    Of chained ones nothing but consistency with the cascade's own (finished) low-res images is defined. SSIM is None
    below 11 px.
    """
    oracle, chained = task.inputs["oracle"], task.inputs["chained"]
    files = {name: oracle / f"{name}.npy" for name in FIGURES} | {"chained_consistency": chained / "consistency.npy"}
    scores = {
        name: float(np.load(file).mean(dtype=np.float64)) if file.exists() else None for name, file in files.items()
    }
    assert all(score is None or math.isfinite(score) for score in scores.values()), "every score is bounded"
    return {"samples": len(np.load(oracle / "consistency.npy")), **scores}


def _rounded(images: Tensor) -> Tensor:
    """Images as a file would hold them: clipped and rounded to 8 bits."""
    return to_float(to_uint8(images))
