"""Noise schedules: callables ``t in [0, 1] -> log-SNR``, strictly decreasing; t = 0 is the clean end.

alpha and sigma derive from log-SNR (``process.alpha_sigma``), so nothing else needs to know which schedule
made it. Every schedule takes a tensor of any shape on any device, reckons in float64 and answers in t's dtype.

*The shift* (Hoogeboom et al. 2023). Mean-pooling a noised image of d px to n px keeps its coarse signal and
divides the variance of its noise by (d / n)^2. So an image of d px has the noise of an n px one, where it
matters, when its log-SNR is lower by 2 log(d / n), hence ``logsnr_d(t) = logsnr_n(t) + 2 log(n / d)``. Two slips in
the notes on simple diffusion: going from 64 to 128 px *divides* the SNR by 4 (they say times 4; it is pooling
back that multiplies it by 4), and sigma is a standard deviation (they call it a variance).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stages.schedule_specs import (
    CosineBetaSchedule,
    CosineSchedule,
    InterpolatedCosineSchedule,
    LinearBetaSchedule,
    PiecewiseSchedule,
    ScheduleSpec,
    ShiftedCosineSchedule,
)

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


@dataclass(frozen=True)
class InterpolatedCosine:
    """``(1 - t) Cosine(shift_low)(t) + t Cosine(shift_high)(t)``: fine detail as at the low reference, noise as at the
    high one (Hoogeboom et al. 2023). Both cosines have the same bounds, so these are kept exactly.

    Raises ValueError where the shifts lie so far apart that log-SNR would rise (from a ratio of the two sizes of
    about e^pi = 23 on).
    """

    logsnr_min: float
    logsnr_max: float
    shift_low: float
    shift_high: float

    def __post_init__(self) -> None:
        if bool((self(torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)).diff() >= 0.0).any()):
            raise ValueError(
                f"shifts {self.shift_low:.3g} and {self.shift_high:.3g} lie too far apart to interpolate: "
                "log-SNR would rise with t; bring the two reference sizes closer"
            )

    def __call__(self, t: Tensor) -> Tensor:
        """log-SNR, same shape as ``t`` (values in [0, 1]); computed in float64, returned in t's dtype."""
        time = t.double()
        low = Cosine(self.logsnr_min, self.logsnr_max, self.shift_low)(time)
        high = Cosine(self.logsnr_min, self.logsnr_max, self.shift_high)(time)
        return ((1.0 - time) * low + time * high).to(t.dtype)


@dataclass(frozen=True)
class Piecewise:
    """Straight lines between log-SNRs at evenly spaced times, ``logsnr[0]`` at t = 0 and the last at t = 1.

    Raises ValueError unless there are two or more and each is below the one before.
    """

    logsnr: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.logsnr) < 2 or any(b >= a for a, b in zip(self.logsnr, self.logsnr[1:], strict=False)):
            raise ValueError("a schedule needs two or more log-SNRs, each below the one before")

    @cached_property
    def values(self) -> Tensor:
        """The log-SNRs between which the lines run, falling; float64, shape (T,), on the CPU."""
        return torch.tensor(self.logsnr, dtype=torch.float64)

    @cached_property
    def _copies(self) -> dict[torch.device, Tensor]:
        return {}

    def values_on(self, device: torch.device) -> Tensor:
        """``values`` on ``device``, copied there once: a step that copied them would wait for the GPU."""
        if device.type == "cpu":
            return self.values
        if device not in self._copies:
            self._copies[device] = self.values.to(device, non_blocking=True)
        return self._copies[device]

    def __call__(self, t: Tensor) -> Tensor:
        """log-SNR, same shape as ``t`` (values in [0, 1]); computed in float64, returned in t's dtype."""
        values = self.values_on(t.device)
        position = t.double() * (len(values) - 1)
        before = position.floor().clamp(0, len(values) - 2).long()
        return torch.lerp(values[before], values[before + 1], position - before).to(t.dtype)


@dataclass(frozen=True)
class Knots(Piecewise):
    """A schedule of T steps (DDPM): step i of 0..T-1 is time t = i / (T - 1).

    The paper's step i + 1 (its x_0 is the clean image, which no net ever sees) is step i here. Between the steps, where
    SR3 trains and other samplers land, log-SNR runs straight.
    """

    @property
    def steps(self) -> int:
        """T."""
        return len(self.logsnr)

    def step_of(self, logsnr: Tensor) -> Tensor:
        """The step whose log-SNR this is, fractional between two steps and held inside [0, T - 1]: the inverse.

        Same shape and dtype as ``logsnr``, which may be infinite.
        """
        falling, wanted = self.values_on(logsnr.device), logsnr.double()
        after = torch.searchsorted(-falling, -wanted).clamp(1, self.steps - 1)
        above, below = falling[after - 1], falling[after]
        return (after - 1 + ((above - wanted) / (above - below)).clamp(0.0, 1.0)).to(logsnr.dtype)


def _knots_of_betas(betas: Tensor) -> Knots:
    """``alpha-bar_i = prod (1 - beta)``, as log-SNR = log(alpha-bar / (1 - alpha-bar)); betas (T,) float64."""
    log_alpha_bar = torch.log1p(-betas).cumsum(0)
    return Knots(tuple((log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))).tolist()))


def linear_beta_knots(steps: int, beta_start: float, beta_end: float) -> Knots:
    """DDPM: ``steps`` betas, evenly spaced from ``beta_start`` to ``beta_end``, each in (0, 1)."""
    return _knots_of_betas(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))


def cosine_beta_knots(steps: int, offset: float, beta_max: float) -> Knots:
    """Improved DDPM: ``beta_i = min(1 - f(i / T) / f((i - 1) / T), beta_max)`` for i = 1..T, with
    ``f(u) = cos^2((u + offset) / (1 + offset) pi / 2)``.

    ``offset`` keeps the first betas from vanishing; ``beta_max`` < 1 keeps a trace of signal at the last step, where
    f is 0.
    """
    u = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    f = torch.cos((u + offset) / (1.0 + offset) * (math.pi / 2)) ** 2
    return _knots_of_betas((1.0 - f[1:] / f[:-1]).clamp(max=beta_max))


def size_shift(reference: int, size: int) -> float:
    """What to add to the log-SNR made for images of ``reference`` px when they have ``size`` px."""
    return 2.0 * math.log(reference / size)


def build_schedule(spec: ScheduleSpec, size: int) -> Schedule:
    """The callable that ``spec`` describes, for images of ``size`` px."""
    match spec:
        case CosineSchedule():
            return Cosine(spec.logsnr_min, spec.logsnr_max, spec.shift)
        case ShiftedCosineSchedule():
            return Cosine(spec.logsnr_min, spec.logsnr_max, size_shift(spec.reference, size))
        case InterpolatedCosineSchedule():
            low, high = (size_shift(reference, size) for reference in spec.references)
            return InterpolatedCosine(spec.logsnr_min, spec.logsnr_max, low, high)
        case LinearBetaSchedule():
            return linear_beta_knots(spec.steps, spec.beta_start, spec.beta_end)
        case CosineBetaSchedule():
            return cosine_beta_knots(spec.steps, spec.offset, spec.beta_max)
        case PiecewiseSchedule():
            return Piecewise(spec.logsnr)


def sampling_grid(schedule: Schedule, steps: int) -> Tensor:
    """``steps + 1`` increasing log-SNRs, the noisiest first; float64, shape (steps + 1,). Raises ValueError below 1.

    The last is +inf, where alpha = 1 and sigma = 0: the final step of any sampler lands on its estimate of
    the clean image instead of leaving the residual noise of a finite maximum in it. The others are evenly spaced in t
    from 1 to 1 / steps. Under a schedule of T steps they are ``steps`` of these instead, as evenly spaced as whole
    numbers allow, the last and the first among them: with steps = T, DDPM's own chain.
    """
    if steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, not {steps}")
    if isinstance(schedule, Knots):
        places = torch.linspace(schedule.steps - 1, 0, steps, dtype=torch.float64)
        own = steps <= schedule.steps
        grid = schedule.values[places.round().long()] if own else schedule(places / (schedule.steps - 1))
        return torch.cat([grid, grid.new_tensor([torch.inf])])
    t = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    grid = schedule(t)
    grid[-1] = torch.inf
    return grid


def logsnr_of_level(schedule: Schedule, level: float) -> float:
    """log-SNR of augmentation level s under the schedule of the stage below (finite, also at s = 0)."""
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"augmentation level {level} is outside [0, 1]")
    return float(schedule(torch.tensor(level, dtype=torch.float64)))
