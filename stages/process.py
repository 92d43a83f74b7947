"""The forward process, its posterior, and the conversions between x, eps and v.

With alpha^2 = sigmoid(logsnr) and sigma^2 = sigmoid(-logsnr) (variance preserving):

    z   = alpha x + sigma eps
    v   = alpha eps - sigma x          (Salimans & Ho 2022)

so (z, v) is (x, eps) rotated, and each conversion below is one line of that rotation. The notes on CDM print
the mean of equation (5) with root alpha_t in the second denominator; it is 1 - alpha-bar_t (DDPM, eq. 11).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Target = Literal["x", "eps", "v"]


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """Scales of signal and noise, same shape as ``logsnr``; exact at +-inf."""
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number per image, (B,) or (), so that it broadcasts over ``like`` (B, C, H, W)."""
    return values.to(like.dtype).reshape(-1, *([1] * (like.ndim - 1)))


def diffuse(x: Tensor, eps: Tensor, logsnr: Tensor) -> Tensor:
    """z of the forward process: ``alpha x + sigma eps``. ``logsnr`` is (B,) or ()."""
    alpha, sigma = alpha_sigma(per_image(logsnr, x))
    return alpha * x + sigma * eps


def velocity(x: Tensor, eps: Tensor, logsnr: Tensor) -> Tensor:
    """``v = alpha eps - sigma x``."""
    alpha, sigma = alpha_sigma(per_image(logsnr, x))
    return alpha * eps - sigma * x


def x_from(prediction: Target, output: Tensor, z: Tensor, logsnr: Tensor) -> Tensor:
    """x_hat from a net's ``output``, which estimates x, eps or v at ``z``."""
    alpha, sigma = alpha_sigma(per_image(logsnr, z))
    if prediction == "v":
        return alpha * z - sigma * output
    if prediction == "eps":
        return (z - sigma * output) / alpha
    return output


def eps_from_x(x_hat: Tensor, z: Tensor, logsnr: Tensor) -> Tensor:
    """``eps_hat = (z - alpha x_hat) / sigma``."""
    alpha, sigma = alpha_sigma(per_image(logsnr, z))
    return (z - alpha * x_hat) / sigma


def posterior(z: Tensor, x_hat: Tensor, logsnr: Tensor, logsnr_next: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(z_next | z, x = x_hat) for ``logsnr_next`` > ``logsnr`` (DDPM eq. 6-7; VDM).

    With ``r = exp(logsnr - logsnr_next)`` in [0, 1):
    mean = alpha_next (r z / alpha + (1 - r) x_hat), variance = (1 - r) sigma_next^2: the smaller of the two
    fixed choices of DDPM (beta-tilde). Log-SNRs are () or (B,).
    """
    alpha, _ = alpha_sigma(per_image(logsnr, z))
    alpha_next, sigma_next = alpha_sigma(per_image(logsnr_next, z))
    one_minus_r = -torch.expm1(per_image(logsnr - logsnr_next, z))
    mean = alpha_next * ((1.0 - one_minus_r) * z / alpha + one_minus_r * x_hat)
    return mean, one_minus_r * sigma_next**2
