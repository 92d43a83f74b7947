"""Frozen, validated descriptions of a stage and of its training. No torch here: reading one is instant.

A spec says *what* a stage is; constructors elsewhere take plain keyword arguments, never a spec, so that
each part can be built in a notebook. Variants carry a ``kind``. Unknown keys are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.net_specs import NetSpec, UNetSpec
from stages.schedule_specs import CosineSchedule, ScheduleSpec
from stages.spec_base import PositiveInt, Spec, Unit
from stages.training_specs import StageSamplingSpec, TrainingSpec, ema_decay, learning_rate_at

__all__ = [
    "AugmentationSpec",
    "BlurSpec",
    "CosineSchedule",
    "LossSpec",
    "NetSpec",
    "NoiseSpec",
    "PositiveInt",
    "ScheduleSpec",
    "Spec",
    "StageSamplingSpec",
    "StageSpec",
    "TrainingSpec",
    "UNetSpec",
    "Unit",
    "ema_decay",
    "learning_rate_at",
]


class LossSpec(Spec):
    """Mean of ``|estimate - truth|^power`` measured on eps, v or x (for x-, v- or eps-predicting nets alike)."""

    kind: Literal["regression"] = "regression"
    space: Literal["eps", "v", "x"] = "v"
    power: Literal[1, 2] = 2


class BlurSpec(Spec):
    """Random Gaussian blur of the low-resolution image; in training only (CDM, section on 128 and 256 px)."""

    kernel: PositiveInt = 3
    sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.4, 0.6)
    probability: Unit = 0.5

    @model_validator(mode="after")
    def _usable(self) -> BlurSpec:
        if self.kernel % 2 == 0:
            raise ValueError(f"blur kernel {self.kernel} must be odd")
        if self.sigma[0] > self.sigma[1]:
            raise ValueError(f"blur sigma range {self.sigma} must be given as (low, high)")
        return self


class NoiseSpec(Spec):
    """Gaussian conditioning augmentation, amortised: each example draws its level s uniformly from ``levels``.

    s is a time of the previous stage's forward process. Truncated and non-truncated sampling use the same
    trained weights; they differ only in how z_s comes about when sampling.
    """

    levels: tuple[Unit, Unit] = (0.0, 0.3)

    @model_validator(mode="after")
    def _ordered(self) -> NoiseSpec:
        if self.levels[0] > self.levels[1]:
            raise ValueError(f"noise levels {self.levels} must be given as (low, high)")
        return self


class AugmentationSpec(Spec):
    """What is done to the low-resolution image in training, so that the chain's own errors do less harm."""

    noise: NoiseSpec | None = None
    blur: BlurSpec | None = None


class StageSpec(Spec):
    """One rung: everything needed to build its net, train it and sample from it."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    size: PositiveInt
    low_res_size: PositiveInt | None = Field(None, description="None for the base stage.")
    classes: PositiveInt
    net: NetSpec
    schedule: ScheduleSpec = CosineSchedule()
    low_res_schedule: ScheduleSpec | None = Field(
        None, description="Schedule of the stage below: what an augmentation level s means. None for the base stage."
    )
    prediction: Literal["v", "eps", "x"] = "v"
    loss: LossSpec = LossSpec()
    augmentation: AugmentationSpec | None = None
    upsampling: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    label_drop: Unit = Field(0.1, description="Share of examples trained without their label, for guidance.")
    flip: bool = Field(False, description="Random horizontal flips, the same for both resolutions.")

    @property
    def is_base(self) -> bool:
        return self.low_res_size is None

    @model_validator(mode="after")
    def _parts_agree(self) -> StageSpec:
        self.net.check_size(self.size)
        if self.is_base and self.augmentation is not None:
            raise ValueError(f"stage {self.name} is the base stage and has no low-resolution image to augment")
        if self.is_base != (self.low_res_schedule is None):
            raise ValueError(f"stage {self.name}: low_res_size and low_res_schedule belong together")
        if self.low_res_size is not None and (self.size % self.low_res_size or self.size == self.low_res_size):
            raise ValueError(
                f"stage {self.name}: {self.size} px is not a multiple of the low-res {self.low_res_size} px"
            )
        return self

    def trained_levels(self) -> tuple[float, float]:
        """Range of augmentation levels s this stage was trained for; (0, 0) without noise augmentation."""
        return self.augmentation.noise.levels if self.augmentation and self.augmentation.noise else (0.0, 0.0)
