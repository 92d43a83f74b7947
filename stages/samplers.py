"""Samplers: step rules, and the one loop that applies a rule along an increasing grid of log-SNR.

A step rule moves z from one log-SNR to a higher one, given what the denoiser says where it stands. All rules begin with
the same straight step: were the estimate x_hat right and final, then eps_hat = (z - alpha x_hat) / sigma would be the
noise in z, and at the next log-SNR

    z_next = alpha_next x_hat + sigma_next eps_hat.

They differ in the x_hat that they put there and in how much of eps_hat they draw anew:

    ddim        x_hat as it is; a share eta^2 (1 - r) of the noise is drawn anew          order 1 (eta = 0)
    ancestral   the posterior, which is ddim with eta = 1, with a variance of choice      order 1
    dpmpp_2m    x_hat drawn out to the middle of the step through the estimate before,    order 2, one call of the net
                no further than an even step would reach (the published formula where
                steps do not grow)
    heun        x_hat corrected by that at the far end of the step                        order 2, two calls of the net

The last step, to +inf, adds no noise and lands on the estimate itself, whichever the rule.

*Truncation* is a stop on the way: from the grid point before the asked level one more step of the same rule, with the
estimate already in hand, gives z_s without disturbing the trajectory; so the finished images do not depend on which
levels were asked for. Only heun calls the net once more for it.

The grid stays on the CPU, in float64: its numbers enter as scalars, and what depends on them is decided without
waiting for the device that holds the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from stages.process import Variance, alpha_sigma, eps_from_x, posterior, reverse_variance
from stages.stage import Prediction

Sampler = Literal["ancestral", "ddim", "dpmpp_2m", "heun"]

Denoise = Callable[[Tensor, Tensor], Prediction]
"""(z (B, C, H, W), logsnr ()) -> Prediction: a denoiser with its conditioning filled in."""

Noise = Callable[[str, int], Tensor]
"""(purpose, step) -> standard normal noise like z, the same whenever it is asked for."""


@dataclass(frozen=True)
class Point:
    """A point of the trajectory, and what the denoiser says there."""

    z: Tensor  # (B, C, H, W)
    logsnr: Tensor  # (), float64, on the CPU
    prediction: Prediction


Draw = Callable[[], Tensor]
"""() -> the standard normal noise of this step, like z."""

StepRule = Callable[[Point, Point | None, Tensor, Denoise, Draw], Tensor]
"""(here, the grid point before or None, logsnr_next (), denoise, noise) -> z at logsnr_next.

A rule that needs no noise does not ask for it: a draw costs time.
"""


def is_clean(logsnr: Tensor) -> bool:
    """Whether ``logsnr`` () is +inf: sigma is 0, and z is the image."""
    return bool(torch.isposinf(logsnr))


def straight(z: Tensor, x_hat: Tensor, logsnr: Tensor, logsnr_next: Tensor) -> Tensor:
    """``alpha_next x_hat + sigma_next eps_hat``: exact for the probability flow if x_hat stays the same on the way."""
    alpha_next, sigma_next = alpha_sigma(logsnr_next)
    return alpha_next * x_hat + sigma_next * eps_from_x(x_hat, z, logsnr)


def ddim(eta: float) -> StepRule:
    """Song et al. 2021: of the variance of the noise at the next point a share ``eta^2 (1 - r)`` is drawn anew.

    The rest is eps_hat, and r = exp(logsnr - logsnr_next). eta = 0 is deterministic, eta = 1 is ancestral sampling with
    the posterior variance.
    """

    def step(here: Point, before: Point | None, logsnr_next: Tensor, denoise: Denoise, noise: Draw) -> Tensor:
        x_hat = here.prediction.x_hat
        if eta == 0.0 or is_clean(logsnr_next):
            return straight(here.z, x_hat, here.logsnr, logsnr_next)
        alpha_next, sigma_next = alpha_sigma(logsnr_next)
        new = -(eta**2) * torch.expm1(here.logsnr - logsnr_next)
        eps = (1.0 - new).sqrt() * eps_from_x(x_hat, here.z, here.logsnr) + new.sqrt() * noise()
        return alpha_next * x_hat + sigma_next * eps

    return step


def ancestral(variance: Variance) -> StepRule:
    """DDPM: a draw around the mean of q(z_next | z, x_hat) with the ``variance`` of choice (``reverse_variance``).

    "posterior" is exact for data of one image, "beta" for data that are standard normal noise, "learned" asks the net.
    """

    def step(here: Point, before: Point | None, logsnr_next: Tensor, denoise: Denoise, noise: Draw) -> Tensor:
        mean, _ = posterior(here.z, here.prediction.x_hat, here.logsnr, logsnr_next)
        if is_clean(logsnr_next):
            return mean
        fraction = here.prediction.variance_fraction
        return mean + reverse_variance(variance, here.logsnr, logsnr_next, fraction, here.z).sqrt() * noise()

    return step


def dpmpp_2m(here: Point, before: Point | None, logsnr_next: Tensor, denoise: Denoise, noise: Draw) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022): x_hat where the line through the last two estimates passes half the step.

    The line is drawn in log-SNR, so with even steps this is x_hat + (x_hat - x_hat before) / 2. The first step and the
    last, which is infinitely long, take x_hat as it is. A step longer than the one before reaches no further than an
    even one would: on grids whose steps grow, which the paper does not use but a linear-beta schedule has near the
    clean end, the line leads away from the truth, and on smooth grids the order stays 2.
    """
    x_hat = here.prediction.x_hat
    if before is not None and not is_clean(logsnr_next):
        reach = 0.5 * (logsnr_next - here.logsnr) / (here.logsnr - before.logsnr)
        x_hat = x_hat + reach.clamp(max=0.5) * (x_hat - before.prediction.x_hat)
    return straight(here.z, x_hat, here.logsnr, logsnr_next)


def heun(here: Point, before: Point | None, logsnr_next: Tensor, denoise: Denoise, noise: Draw) -> Tensor:
    """Heun's method along the angle phi of alpha = cos phi, sigma = sin phi, where the probability flow is dz/dphi = v.

    The mean velocity of both ends of the step, over the chord: ``z_next = z - tan(delta / 2) (v + v_next)`` for an
    angle delta; the tangent makes it exact while x_hat stays the same. Since v_next is wanted at the landing point of
    the straight step, that is the landing point and tan(delta / 2) / sigma_next times what x_hat changed by. The factor
    is held at alpha_next, for more would go past the new estimate; only a single step over most of the noise asks for
    it. Near the clean end this is Heun's step in sigma / alpha (Karras et al. 2022), whose factor has no bound when a
    grid begins with noise alone. The last step is the straight one.
    """
    x_hat = here.prediction.x_hat
    landed = straight(here.z, x_hat, here.logsnr, logsnr_next)
    if is_clean(logsnr_next):
        return landed
    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(here.logsnr), alpha_sigma(logsnr_next)
    tan_half = (sigma * alpha_next - alpha * sigma_next) / (1.0 + alpha * alpha_next + sigma * sigma_next)
    change = denoise(landed, logsnr_next).x_hat - x_hat
    return landed + torch.minimum(tan_half / sigma_next, alpha_next) * change


def step_rule(sampler: Sampler, *, eta: float, variance: Variance) -> StepRule:
    """The rule called ``sampler``; ``eta`` in [0, 1] is of ddim alone, ``variance`` of ancestral alone."""
    rules: dict[Sampler, StepRule] = {
        "ancestral": ancestral(variance),
        "ddim": ddim(eta),
        "dpmpp_2m": dpmpp_2m,
        "heun": heun,
    }
    return rules[sampler]


def sample(
    denoise: Denoise, z: Tensor, grid: Tensor, *, rule: StepRule, noise: Noise, keep: Sequence[float] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Run the reverse process from ``z`` (B, C, H, W) along ``grid`` (K + 1,), float64 and increasing.

    Returns z at the last grid point (the sample, when that is +inf) and, for each log-SNR in ``keep``, the z_s
    where the chain passes it. Raises ValueError for a value of ``keep`` outside [grid[0], grid[-1]).
    """
    levels = grid.tolist()
    if outside := [stop for stop in keep if not levels[0] <= stop < levels[-1]]:
        raise ValueError(f"log-SNR {outside} lies outside the sampling grid [{levels[0]:g}, {levels[-1]:g})")
    kept: dict[float, Tensor] = {}
    before: Point | None = None
    for step, (logsnr, logsnr_next) in enumerate(pairwise(grid.cpu())):
        here = Point(z, logsnr, denoise(z, logsnr))
        for stop in keep:
            if stop == levels[step]:
                kept[stop] = z
            elif levels[step] < stop < levels[step + 1]:
                level = torch.tensor(stop, dtype=grid.dtype)
                kept[stop] = rule(here, before, level, denoise, partial(noise, f"stop {stop!r}", step))
        z = rule(here, before, logsnr_next, denoise, partial(noise, "step", step))
        before = here
    return z, [kept[stop] for stop in keep]
