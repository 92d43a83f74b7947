"""Samplers: step rules, and the one loop that applies a rule along an increasing grid of log-SNR.

A step rule maps (z, x_hat) at one log-SNR to z at a higher one. The loop asks the denoiser for x_hat once per
grid point. Truncation is a stop on the way: from the grid point before the asked level one more step of the
same rule, with the x_hat already in hand, gives z_s without another call of the net and without disturbing
the trajectory; so the finished images do not depend on which levels were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from stages.process import alpha_sigma, eps_from_x, per_image, posterior

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(z (B, C, H, W), logsnr ()) -> x_hat (B, C, H, W): a denoiser with its conditioning filled in."""

StepRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(z, x_hat, logsnr (), logsnr_next (), noise like z) -> z at logsnr_next."""

Noise = Callable[[str, int], Tensor]
"""(purpose, step) -> standard normal noise like z, the same whenever it is asked for."""

Sampler = Literal["ddim", "ancestral"]


def ddim_step(z: Tensor, x_hat: Tensor, logsnr: Tensor, logsnr_next: Tensor, noise: Tensor) -> Tensor:
    """Deterministic (Song et al. 2021, eta = 0): ``alpha_next x_hat + sigma_next eps_hat``."""
    del noise
    alpha, sigma = alpha_sigma(per_image(logsnr_next, z))
    return alpha * x_hat + sigma * eps_from_x(x_hat, z, logsnr)


def ancestral_step(z: Tensor, x_hat: Tensor, logsnr: Tensor, logsnr_next: Tensor, noise: Tensor) -> Tensor:
    """A draw from the posterior q(z_next | z, x_hat), with the smaller of DDPM's fixed variances."""
    mean, variance = posterior(z, x_hat, logsnr, logsnr_next)
    return mean + variance.sqrt() * noise


STEP_RULES: Mapping[Sampler, StepRule] = {"ddim": ddim_step, "ancestral": ancestral_step}


def sample(
    denoise: Denoise, z: Tensor, grid: Tensor, *, rule: StepRule, noise: Noise, keep: Sequence[float] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Run the reverse process from ``z`` (B, C, H, W) along ``grid`` (K + 1,), float64 and increasing.

    Returns z at the last grid point (the sample, when that is +inf) and, for each log-SNR in ``keep``, the z_s
    where the chain passes it. Values of ``keep`` must lie in [grid[0], grid[-1]).
    """
    kept: dict[int, Tensor] = {}
    for step, (logsnr, logsnr_next) in enumerate(pairwise(grid)):
        x_hat = denoise(z, logsnr)
        for number, stop in enumerate(keep):
            if float(logsnr) <= stop < float(logsnr_next):
                level = torch.tensor(stop, dtype=grid.dtype, device=grid.device)
                branch = z if stop == float(logsnr) else rule(z, x_hat, logsnr, level, noise(f"stop {stop!r}", step))
                kept[number] = branch
        z = rule(z, x_hat, logsnr, logsnr_next, noise("step", step))
    if missing := [keep[n] for n in range(len(keep)) if n not in kept]:
        raise ValueError(f"log-SNR {missing} lies outside the sampling grid [{float(grid[0])}, {float(grid[-1])})")
    return z, [kept[number] for number in range(len(keep))]
