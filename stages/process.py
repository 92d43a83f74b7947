"""The forward process, its posterior, and the conversions between x, eps and v.

With alpha^2 = sigmoid(logsnr) and sigma^2 = sigmoid(-logsnr) (variance preserving):

    z   = alpha x + sigma eps
    v   = alpha eps - sigma x          (Salimans & Ho 2022)

so (z, v) is (x, eps) rotated, and each conversion below is one line of that rotation.

DDPM's letters: alpha-bar_t (SR3: gamma_t) is alpha^2 here, and beta_t = 1 - alpha-bar_t / alpha-bar_(t-1) (SR3's
alpha_t = 1 - beta_t, between 0 and 1; the summary prints 1 < alpha_t < 1) is the variance of one forward step. The
step back has the mean of ``posterior``, which in terms of eps is

    (z_t - beta_t / sqrt(1 - alpha-bar_t) eps_hat) / sqrt(1 - beta_t)        (DDPM, eq. 11)

The notes on CDM print root (1 - alpha_t) in its denominator (eq. 5), without the bar; the summary of SR3 stops after
z_t. Its variance is one of two fixed ones, DDPM's beta-tilde and beta (what is left to know for data without and with
all of its variance), or lies between them where the net says.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Target = Literal["x", "eps", "v"]
Variance = Literal["posterior", "beta", "learned"]


def alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """Scales of signal and noise, same shape as ``logsnr``; exact at +-inf."""
    return torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()


def moved_to(values: Tensor, like: Tensor) -> Tensor:
    """``values`` on the device and in the precision of ``like``.

    One number () of the host is written there by the GPU itself: a copy would wait for all that it has yet to do.
    """
    if values.ndim == 0 and values.device.type == "cpu" != like.device.type:
        return like.new_full((), float(values))
    return values.to(like)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number per image, (B,) or (), so that it broadcasts over ``like`` (B, C, H, W), on its device."""
    return moved_to(values, like).reshape(-1, *([1] * (like.ndim - 1)))


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
    gap = per_image(logsnr - logsnr_next, z)
    one_minus_r = -torch.expm1(gap)
    mean = alpha_next * (gap.exp() * z / alpha + one_minus_r * x_hat)
    return mean, one_minus_r * sigma_next**2


def posterior_variance(logsnr: Tensor, logsnr_next: Tensor) -> Tensor:
    """beta-tilde: ``(1 - r) sigma_next^2``, the variance of q(z_next | z, x); 0 at ``logsnr_next`` = +inf."""
    return -torch.expm1(logsnr - logsnr_next) * torch.sigmoid(-logsnr_next)


def forward_variance(logsnr: Tensor, logsnr_next: Tensor) -> Tensor:
    """beta: ``(1 - r) sigma^2``, the variance of q(z | z_next), on any grid; sigma^2 at ``logsnr_next`` = +inf."""
    return -torch.expm1(logsnr - logsnr_next) * torch.sigmoid(-logsnr)


def variance_floor(grid: Tensor) -> float:
    """beta-tilde of the last step but one of an increasing grid that ends with +inf.

    It stands in for the beta-tilde of the last step, which is 0 and has no logarithm (Improved DDPM). Raises
    ValueError for a grid of fewer than two steps.
    """
    if len(grid) < 3:
        raise ValueError("a grid of one step has no step before the last to take a variance from; use two or more")
    return float(posterior_variance(grid[-3], grid[-2]))


def learned_log_variance(fraction: Tensor, logsnr: Tensor, logsnr_next: Tensor, floor: float) -> Tensor:
    """``fraction log beta + (1 - fraction) log beta-tilde`` (Improved DDPM, eq. 15), like ``fraction`` (B, C, H, W).

    ``fraction`` is not held inside [0, 1]. Where ``logsnr_next`` (() or (B,)) is +inf, ``floor`` (above 0, as
    ``variance_floor`` gives it) replaces a beta-tilde of 0.
    """
    largest = forward_variance(logsnr, logsnr_next)
    smallest = posterior_variance(logsnr, logsnr_next)
    smallest = torch.where(torch.isposinf(logsnr_next), floor, smallest)
    return torch.lerp(per_image(smallest.log(), fraction), per_image(largest.log(), fraction), fraction)


def reverse_variance(
    kind: Variance,
    logsnr: Tensor,
    logsnr_next: Tensor,
    fraction: Tensor | None,
    like: Tensor,
    floor: float | None = None,
) -> Tensor:
    """Variance of the step from ``logsnr`` to ``logsnr_next`` (() or (B,)), to broadcast over ``like`` (B, C, H, W).

    "posterior" is beta-tilde, "beta" is beta, "learned" lies between them by the net's ``fraction`` of their logs.
    At ``logsnr_next`` = +inf both fixed variances are ``floor`` (see ``variance_floor``), as in Improved DDPM, whose
    decoder is so judged; without one beta-tilde is 0, and so is the learned variance, and beta is sigma^2. Raises
    ValueError for a learned variance without its fraction.
    """
    last = torch.isposinf(logsnr_next)
    if kind != "learned":
        fixed = (forward_variance if kind == "beta" else posterior_variance)(logsnr, logsnr_next)
        return per_image(fixed if floor is None else torch.where(last, floor, fixed), like)
    if fraction is None:
        raise ValueError("a learned variance needs the fraction that the net gives; this denoiser gives none")
    variance = learned_log_variance(fraction, logsnr, logsnr_next, 1.0 if floor is None else floor).exp()
    return variance if floor is not None else variance.masked_fill(per_image(last, like).bool(), 0.0)
