"""Descriptions of noise schedules: which variant, and its numbers. ``schedules`` makes callables of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from stages.spec_base import PositiveInt, Spec, by_kind

Beta = Annotated[float, Field(gt=0.0, lt=1.0)]

# Sampling begins with noise alone, so at its noisy end a schedule must have all but drowned the signal: -3 leaves 5 %
# of its power. Beyond 30 either way alpha or sigma is lost in float32, and losses and samples become NaN.
NOISY_ENOUGH = -3.0
LARGEST = 30.0


def check_ends(noisy: float, clean: float, remedy: str) -> None:
    """Raise ValueError unless log-SNR runs from ``clean`` (t = 0) down to ``noisy`` (t = 1) within what can be used."""
    if noisy > NOISY_ENOUGH:
        share = 1.0 / (1.0 + math.exp(-noisy))
        raise ValueError(
            f"at its noisy end the schedule leaves a share of {share:.2g} of the signal's power (log-SNR {noisy:.3g}), "
            f"but sampling begins with noise alone; {remedy}"
        )
    for name, end in (("noisy", noisy), ("clean", clean)):
        if abs(end) > LARGEST:
            raise ValueError(
                f"the {name} end of the schedule has log-SNR {end:.3g}, where float32 ends; keep it within "
                f"+-{LARGEST:g}; {remedy}"
            )


def _ends_of_betas(betas: Iterable[float]) -> tuple[float, float]:
    """log-SNR after all and after the first of ``betas``: ``log(alpha-bar / (1 - alpha-bar))``."""
    logs = list(itertools.accumulate(math.log1p(-beta) for beta in betas))
    noisy, clean = (log - math.log(-math.expm1(log)) for log in (logs[-1], logs[0]))
    return noisy, clean


class BoundedSpec(Spec):
    """What the schedules over continuous time share: the ends of their log-SNR."""

    logsnr_min: float = -15.0
    logsnr_max: float = 15.0

    @model_validator(mode="after")
    def _bounds_are_usable(self) -> BoundedSpec:
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(f"logsnr_min {self.logsnr_min} must be below logsnr_max {self.logsnr_max}")
        check_ends(*self.ends, "lower logsnr_min, such as to -15")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """log-SNR at t = 1 and at t = 0."""
        return self.logsnr_min, self.logsnr_max


class CosineSchedule(BoundedSpec):
    """``logsnr(t) = -2 log tan(pi t / 2) + shift``, bounded to [logsnr_min, logsnr_max] (simple diffusion)."""

    kind: Literal["cosine"] = "cosine"
    shift: Annotated[float, Field(ge=-15.0, le=15.0)] = Field(
        0.0, description="Added to log-SNR; shifted_cosine reckons it from two sizes."
    )


class ShiftedCosineSchedule(BoundedSpec):
    """The cosine made for images of ``reference`` px, moved to the stage's size d by 2 log(reference / d)."""

    kind: Literal["shifted_cosine"]
    reference: PositiveInt


class InterpolatedCosineSchedule(BoundedSpec):
    """Between two shifted cosines: that of ``references[0]`` px at t = 0, that of ``references[1]`` px at t = 1."""

    kind: Literal["interpolated_cosine"]
    references: tuple[PositiveInt, PositiveInt]

    @model_validator(mode="after")
    def _ordered(self) -> InterpolatedCosineSchedule:
        if not self.references[0] < self.references[1]:
            raise ValueError(f"references {list(self.references)} must be given as [low, high] in px")
        if self.references[1] > 20 * self.references[0]:
            raise ValueError(
                f"references {list(self.references)} lie too far apart: log-SNR would rise with t; "
                f"keep the second within 20 times the first"
            )
        return self


class LinearBetaSchedule(Spec):
    """DDPM: ``steps`` values of beta, evenly spaced from ``beta_start`` to ``beta_end``.

    The defaults are those for 1,000 steps; another number of steps needs its own ends (DDPM's, scaled by
    1000 / steps, keep the same total noise).
    """

    kind: Literal["linear_beta"]
    steps: Annotated[int, Field(ge=2)] = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02

    @model_validator(mode="after")
    def _reaches_noise(self) -> LinearBetaSchedule:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start:g} must not be above beta_end {self.beta_end:g}")
        fitting = "DDPM's 1e-4 and 0.02 times 1000 / steps"
        noisy, _ = self.ends
        check_ends(*self.ends, f"{'raise' if noisy > NOISY_ENOUGH else 'lower'} beta_end ({fitting})")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """log-SNR at the last and at the first step."""
        span = self.beta_end - self.beta_start
        return _ends_of_betas(self.beta_start + span * number / (self.steps - 1) for number in range(self.steps))


class CosineBetaSchedule(Spec):
    """Improved DDPM: alpha-bar = f(i / steps) / f(0), f(u) = cos^2((u + offset) / (1 + offset) pi / 2).

    No beta exceeds ``beta_max``; ``offset`` keeps the first ones from vanishing.
    """

    kind: Literal["cosine_beta"]
    steps: Annotated[int, Field(ge=2)] = 1000
    offset: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.008
    beta_max: Beta = 0.999

    @model_validator(mode="after")
    def _reaches_noise(self) -> CosineBetaSchedule:
        check_ends(*self.ends, "leave beta_max at 0.999")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """log-SNR at the last and at the first step."""
        f = [
            math.cos((number / self.steps + self.offset) / (1.0 + self.offset) * math.pi / 2.0) ** 2
            for number in range(self.steps + 1)
        ]
        return _ends_of_betas(min(1.0 - after / before, self.beta_max) for before, after in itertools.pairwise(f))


class PiecewiseSchedule(Spec):
    """log-SNR at evenly spaced times from t = 0 to t = 1, straight lines between them."""

    kind: Literal["piecewise"]
    logsnr: tuple[float, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _decreasing(self) -> PiecewiseSchedule:
        if any(after >= before for before, after in zip(self.logsnr, self.logsnr[1:], strict=False)):
            raise ValueError("logsnr must fall from each value to the next: t = 0 is the clean end")
        check_ends(*self.ends, "let the last value be lower, such as -15")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """log-SNR at t = 1 and at t = 0."""
        return self.logsnr[-1], self.logsnr[0]


ScheduleSpec = Annotated[
    Annotated[CosineSchedule, Tag("cosine")]
    | Annotated[ShiftedCosineSchedule, Tag("shifted_cosine")]
    | Annotated[InterpolatedCosineSchedule, Tag("interpolated_cosine")]
    | Annotated[LinearBetaSchedule, Tag("linear_beta")]
    | Annotated[CosineBetaSchedule, Tag("cosine_beta")]
    | Annotated[PiecewiseSchedule, Tag("piecewise")],
    by_kind("cosine"),
]


def steps_of(schedule: ScheduleSpec) -> int | None:
    """T of a T-step schedule, None for one over continuous time."""
    return schedule.steps if isinstance(schedule, LinearBetaSchedule | CosineBetaSchedule) else None
