"""Descriptions of noise schedules."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.spec_base import Spec


class CosineSchedule(Spec):
    """``logsnr(t) = -2 log tan(pi t / 2) + shift``, bounded to [logsnr_min, logsnr_max] (simple diffusion)."""

    kind: Literal["cosine"] = "cosine"
    logsnr_min: float = -15.0
    logsnr_max: float = 15.0
    shift: float = Field(0.0, description="Added to log-SNR; 2 log(n/d) moves a schedule made for n px to d px.")

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> CosineSchedule:
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(f"logsnr_min {self.logsnr_min} must be below logsnr_max {self.logsnr_max}")
        return self


ScheduleSpec = CosineSchedule
