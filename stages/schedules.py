"""Noise schedules: callables ``t in [0, 1] -> log-SNR``, strictly decreasing.

alpha and sigma derive from log-SNR (``process.alpha_sigma``), so nothing else needs to know which schedule
made it. t = 0 is the clean end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.specs import ScheduleSpec

Schedule = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cosine:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): ``logsnr(t) = -2 log tan(pi t / 2) + shift``.

    The ends of t are moved inward so that log-SNR runs exactly over [logsnr_min, logsnr_max]
    (Hoogeboom et al. 2023; the bounds are those of the shifted schedule).
    """

    logsnr_min: float = -15.0
    logsnr_max: float = 15.0
    shift: float = 0.0

    def __call__(self, t: Tensor) -> Tensor:
        """log-SNR, same shape as ``t`` (values in [0, 1]); computed in float64, returned in t's dtype."""
        t_min = math.atan(math.exp(-0.5 * (self.logsnr_max - self.shift)))
        t_max = math.atan(math.exp(-0.5 * (self.logsnr_min - self.shift)))
        angle = t_min + t.double() * (t_max - t_min)
        return (-2.0 * torch.log(torch.tan(angle)) + self.shift).to(t.dtype)


def build_schedule(spec: ScheduleSpec) -> Schedule:
    """The callable that ``spec`` describes."""
    return Cosine(logsnr_min=spec.logsnr_min, logsnr_max=spec.logsnr_max, shift=spec.shift)


def sampling_grid(schedule: Schedule, steps: int) -> Tensor:
    """``steps + 1`` increasing log-SNRs, evenly spaced in t from 1 to 0; float64, shape (steps + 1,).

    The last is +inf, where alpha = 1 and sigma = 0: the final step of any sampler lands on its estimate of
    the clean image instead of leaving the residual noise of a finite maximum in it.
    """
    if steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, not {steps}")
    t = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    grid = schedule(t)
    grid[-1] = torch.inf
    return grid


def logsnr_of_level(schedule: Schedule, level: float) -> float:
    """log-SNR of augmentation level s under the schedule of the stage below (finite, also at s = 0)."""
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"augmentation level {level} is outside [0, 1]")
    return float(schedule(torch.tensor(level, dtype=torch.float64)))
