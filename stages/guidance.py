"""Classifier-free guidance and thresholding: wrappers of a denoiser that give a denoiser.

Both act on x_hat alone; what the net says of the variance is that of its conditional half, untouched.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from stages.process import per_image
from stages.stage import Denoiser, Prediction

Thresholding = Literal["none", "static", "dynamic"]


def guided(denoiser: Denoiser, scale: float, *, no_label: int, interval: tuple[float, float] | None) -> Denoiser:
    """``x_hat = unconditional + scale (conditional - unconditional)`` (Ho & Salimans 2022); scale 1 is no guidance.

    Both halves go through the net in one call; ``no_label`` is the class index that means "no label". With an
    ``interval`` [low, high) of log-SNR guidance acts inside alone (Kynkäänniemi et al. 2024): it does harm where there
    is only noise and little good where the image is nearly clean. Outside only the conditional half is computed,
    exactly as without guidance. Then ``logsnr`` must be (), best on the CPU, where looking at it waits for nothing.
    """
    if scale == 1.0:
        return denoiser

    def denoise(
        z: Tensor, logsnr: Tensor, *, label: Tensor, low_res: Tensor | None, aug_logsnr: Tensor | None
    ) -> Prediction:
        if interval is not None and not interval[0] <= float(logsnr) < interval[1]:
            return denoiser(z, logsnr, label=label, low_res=low_res, aug_logsnr=aug_logsnr)
        both = denoiser(
            torch.cat([z, z]),
            logsnr if logsnr.ndim == 0 else torch.cat([logsnr, logsnr]),
            label=torch.cat([label, torch.full_like(label, no_label)]),
            low_res=None if low_res is None else torch.cat([low_res, low_res]),
            aug_logsnr=aug_logsnr if aug_logsnr is None or aug_logsnr.ndim == 0 else torch.cat([aug_logsnr] * 2),
        )
        with_label, without = both.x_hat.chunk(2)
        fraction = None if both.variance_fraction is None else both.variance_fraction.chunk(2)[0]
        return Prediction(torch.lerp(without, with_label, scale), fraction)

    return denoise


def static_threshold(x_hat: Tensor) -> Tensor:
    """x_hat clipped to the range of images, [-1, 1]."""
    return x_hat.clamp(-1.0, 1.0)


def dynamic_threshold(x_hat: Tensor, percentile: float) -> Tensor:
    """x_hat (B, C, H, W) clipped to [-s, s] and divided by s, where each image has its own s >= 1 (Imagen).

    s is the smallest value that a share ``percentile``, in (0, 1], of the image's |x_hat| does not exceed, but at
    least 1: strong guidance then costs contrast instead of piling values up at -1 and 1 (Saharia et al. 2022).
    """
    sizes = x_hat.abs().flatten(1)
    limit = sizes.kthvalue(math.ceil(percentile * sizes.shape[1]), dim=1).values.clamp_min(1.0)
    limit = per_image(limit, x_hat)
    return x_hat.clamp(-limit, limit) / limit


def thresholded(denoiser: Denoiser, kind: Thresholding, *, percentile: float) -> Denoiser:
    """Bring every x_hat into the range of images, "static" or "dynamic"; ``percentile`` is of the latter alone."""
    if kind == "none":
        return denoiser

    def denoise(
        z: Tensor, logsnr: Tensor, *, label: Tensor, low_res: Tensor | None, aug_logsnr: Tensor | None
    ) -> Prediction:
        estimate = denoiser(z, logsnr, label=label, low_res=low_res, aug_logsnr=aug_logsnr)
        x_hat = estimate.x_hat
        x_hat = static_threshold(x_hat) if kind == "static" else dynamic_threshold(x_hat, percentile)
        return Prediction(x_hat, estimate.variance_fraction)

    return denoise
