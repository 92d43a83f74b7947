"""The variational bound: how many bits a model needs, per dimension, to describe an 8-bit image (DDPM, eq. 5).

    bound = prior + sum of one term per step of a grid of log-SNR
    prior = KL(q(z_first | x) || N(0, 1))
    term  = KL(q(z_next | z, x) || p(z_next | z)),   and at the last step   -log p(x | z)

p is the reverse step the samplers take: the posterior's mean at the model's x_hat, with a fixed or learned variance.
At the last step it is a Gaussian around x_hat, integrated over the bin of each of the 256 values. Every term is the
expectation over z = alpha x + sigma eps, estimated here by one eps: unbiased, and averaged over images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.process import (
    Variance,
    alpha_sigma,
    diffuse,
    per_image,
    posterior_variance,
    reverse_variance,
    variance_floor,
)

if TYPE_CHECKING:
    from stages.stage import Prediction

HALF_BIN = 1.0 / 255.0  # 256 values from -1 to 1 lie 2 / 255 apart


def bits_per_dimension(nats: Tensor) -> Tensor:
    """(B, C, H, W) in nats -> the mean over each image, (B,), in bits."""
    return nats.flatten(1).mean(1) / math.log(2.0)


def decoder_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log of the share of N(mean, variance) inside the bin of each 8-bit value ``x`` = 2 k / 255 - 1; in nats, like x.

    The bins are 2 / 255 wide; those of -1 and 1 go on without end, so the 256 shares sum to one.
    """
    scale = torch.exp(-0.5 * log_variance)
    distance = x - mean
    # Both edges are measured on the side where the distribution function is small, so nothing cancels far out.
    upper = torch.special.log_ndtr((HALF_BIN - distance.abs()) * scale)
    lower = torch.special.log_ndtr((-HALF_BIN - distance.abs()) * scale)
    inside = upper + torch.log(-torch.expm1(lower - upper))
    outermost = torch.special.log_ndtr((HALF_BIN - distance * x.sign()) * scale)
    return torch.where(x.abs() > 1.0 - HALF_BIN, outermost, inside)


def vlb_term(x: Tensor, x_hat: Tensor, log_variance: Tensor, logsnr: Tensor, logsnr_next: Tensor) -> Tensor:
    """Term of the step from ``logsnr`` to ``logsnr_next`` (() or (B,)), in bits per dimension, (B,).

    ``x`` and the model's estimate ``x_hat`` are (B, C, H, W), ``log_variance`` is the model's and broadcasts over them.
    Where ``logsnr_next`` is +inf the term is that of the decoder, else the KL of two Gaussians whose means differ by
    ``alpha_next (1 - r) (x - x_hat)``.
    """
    last = torch.isposinf(logsnr_next)
    # Both terms are reckoned for every image and one is chosen. The other must be finite too, since a gradient of
    # infinity times zero is not zero: hence tame stand-ins where a term will not be chosen.
    before = torch.where(last, logsnr + 1.0, logsnr_next)
    share = per_image(alpha_sigma(before)[0] * -torch.expm1(logsnr - before), x)
    log_ratio = log_variance - per_image(posterior_variance(logsnr, before).log(), x)
    squared = (share * (x - x_hat)) ** 2
    divergence = 0.5 * (log_ratio + torch.expm1(-log_ratio) + squared * torch.exp(-log_variance))
    chosen = per_image(last, x).bool()
    decoder = -decoder_log_likelihood(
        x, torch.where(chosen, x_hat, x), torch.where(chosen, log_variance, 2.0 * math.log(HALF_BIN))
    )
    return bits_per_dimension(torch.where(chosen, decoder, divergence))


def prior_term(x: Tensor, logsnr_first: Tensor) -> Tensor:
    """KL(q(z_first | x) || N(0, 1)) in bits per dimension, (B,): what can still be seen of x where sampling begins."""
    first = logsnr_first.double()
    share = torch.sigmoid(first)  # alpha^2
    return bits_per_dimension(0.5 * (per_image(share, x) * x**2 + per_image(-share - F.logsigmoid(-first), x)))


@dataclass(frozen=True)
class Bound:
    """The parts of the bound for B images, in bits per dimension."""

    prior: Tensor  # (B,)
    steps: Tensor  # (K, B), the noisiest first; the last is the decoder's

    @property
    def total(self) -> Tensor:
        """(B,)."""
        return self.prior + self.steps.sum(0)


@torch.no_grad()
def variational_bound(
    denoise: Callable[[Tensor, Tensor], Prediction],
    x: Tensor,
    grid: Tensor,
    *,
    variance: Variance,
    noise: Callable[[str, int], Tensor],
) -> Bound:
    """The bound on images ``x`` (B, C, H, W) of 8-bit values in [-1, 1] along an increasing ``grid`` (K + 1,).

    ``grid`` is float64 and ends with +inf, as ``sampling_grid`` makes it; ``denoise`` takes (z, logsnr ()) and is
    called K times; ``noise(purpose, step)`` gives standard normal noise like x. A variance that would be 0 at the
    last step (beta-tilde) is that of the step before (Improved DDPM). Values of x between two 8-bit ones (a
    mean-pooled image, not rounded) are judged by a bin of the same width around them. Raises ValueError for fewer
    than two steps.
    """
    floor = variance_floor(grid)
    steps = []
    for step, (logsnr, logsnr_next) in enumerate(pairwise(grid)):
        z = diffuse(x, noise("bound", step), logsnr)
        estimate = denoise(z, logsnr)
        spread = reverse_variance(variance, logsnr, logsnr_next, estimate.variance_fraction, x, floor)
        steps.append(vlb_term(x, estimate.x_hat, spread.log(), logsnr, logsnr_next))
    return Bound(prior_term(x, grid[0]), torch.stack(steps))
