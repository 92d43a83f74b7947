"""Classifier-free guidance and thresholding: wrappers of a denoiser that give a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.stage import Denoiser, Prediction


def guided(denoiser: Denoiser, scale: float, no_label: int) -> Denoiser:
    """``x_hat = unconditional + scale (conditional - unconditional)`` (Ho & Salimans 2022); scale 1 is no guidance.

    Both halves go through the net in one call; ``no_label`` is the class index that means "no label".
    """
    if scale == 1.0:
        return denoiser

    def denoise(
        z: Tensor, logsnr: Tensor, *, label: Tensor, low_res: Tensor | None, aug_logsnr: Tensor | None
    ) -> Prediction:
        def twice(values: Tensor | None) -> Tensor | None:
            return None if values is None else torch.cat([values, values])

        both = denoiser(
            torch.cat([z, z]),
            logsnr if logsnr.ndim == 0 else torch.cat([logsnr, logsnr]),
            label=torch.cat([label, torch.full_like(label, no_label)]),
            low_res=twice(low_res),
            aug_logsnr=aug_logsnr if aug_logsnr is None or aug_logsnr.ndim == 0 else twice(aug_logsnr),
        )
        with_label, without = both.x_hat.chunk(2)
        fraction = None if both.variance_fraction is None else both.variance_fraction.chunk(2)[0]
        return Prediction(torch.lerp(without, with_label, scale), fraction)

    return denoise


def clipped(denoiser: Denoiser) -> Denoiser:
    """Static thresholding: x_hat is clipped to the range of images, [-1, 1]."""

    def denoise(
        z: Tensor, logsnr: Tensor, *, label: Tensor, low_res: Tensor | None, aug_logsnr: Tensor | None
    ) -> Prediction:
        estimate = denoiser(z, logsnr, label=label, low_res=low_res, aug_logsnr=aug_logsnr)
        return Prediction(estimate.x_hat.clamp(-1.0, 1.0), estimate.variance_fraction)

    return denoise
