"""Frozen, validated descriptions of a stage and of its training. No torch here: reading one is instant.

A spec says *what* a stage is; constructors elsewhere take plain keyword arguments, never a spec, so that
each part can be built in a notebook. Variants carry a ``kind``. Unknown keys are refused.
"""

from __future__ import annotations

import difflib
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class Spec(BaseModel):
    """Base of all descriptions: immutable, and a key that does not exist is an error, not a remark."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, data: Any) -> Any:
        """Name the nearest known key; pydantic alone would only say that the key is extra."""
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                nearest = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                known = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {str(key)!r}; {known}")
        return data


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


class UNetSpec(Spec):
    """A U-Net of residual blocks with attention at chosen feature-map sizes (DDPM, ADM layout)."""

    kind: Literal["unet"] = "unet"
    channels: PositiveInt = 64
    multipliers: tuple[PositiveInt, ...] = Field((1, 2), min_length=1)
    blocks: tuple[Annotated[int, Field(ge=0)], ...] | PositiveInt = Field(
        2, description="Residual blocks per level: one number, or one per multiplier (highest resolution first)."
    )
    attention: tuple[PositiveInt, ...] = Field((), description="Feature-map sizes (px) that get self-attention.")
    head_width: PositiveInt = 32
    dropout: Unit = 0.0
    patch: PositiveInt = Field(1, description="Side of the square patches that the first convolution reads.")

    @property
    def blocks_per_level(self) -> tuple[int, ...]:
        """Residual blocks of each level, highest resolution first."""
        return (self.blocks,) * len(self.multipliers) if isinstance(self.blocks, int) else self.blocks

    @model_validator(mode="after")
    def _levels_agree(self) -> UNetSpec:
        if len(self.blocks_per_level) != len(self.multipliers):
            raise ValueError(f"blocks has {len(self.blocks_per_level)} entries for {len(self.multipliers)} multipliers")
        return self

    def feature_sizes(self, size: int) -> tuple[int, ...]:
        """Side in px of the feature maps at each level for images of ``size`` px."""
        return tuple(size // self.patch // 2**level for level in range(len(self.multipliers)))

    def check_size(self, size: int) -> None:
        """Raise ValueError when images of ``size`` px cannot pass through this net."""
        step = self.patch * 2 ** (len(self.multipliers) - 1)
        if size % step:
            raise ValueError(
                f"a size of {size} px does not divide by {step} (patch {self.patch} and "
                f"{len(self.multipliers)} levels); choose another size, patch or number of multipliers"
            )
        sizes = self.feature_sizes(size)
        if unknown := sorted(set(self.attention) - set(sizes)):
            raise ValueError(f"attention at {unknown} px, but the feature maps are {list(sizes)} px")
        for side, multiplier in zip(sizes, self.multipliers, strict=True):
            width = self.channels * multiplier
            if side in self.attention and width % self.head_width:
                raise ValueError(f"head_width {self.head_width} does not divide the {width} channels at {side} px")


NetSpec = UNetSpec


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


class TrainingSpec(Spec):
    """How one stage is trained. Nothing here depends on the total number of steps, so more steps continue a run."""

    steps: PositiveInt
    batch_size: PositiveInt = Field(64, description="Global batch: all workers together.")
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 100
    decay_after: PositiveInt | None = Field(
        None, description="From this step the rate falls as sqrt(decay_after / step); None keeps it constant."
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Unit, Unit] = (0.9, 0.99)
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest gradient norm.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.999, description="Decay of the averaged weights, warmed up.")
    precision: Literal["f32", "bf16"] = "f32"


class StageSamplingSpec(Spec):
    """How one stage is sampled. ``level`` is the augmentation level s its low-res input is given at."""

    sampler: Literal["ddim", "ancestral"] = "ddim"
    steps: PositiveInt = 32
    guidance: Annotated[float, Field(ge=0.0)] = Field(1.0, description="1 is no guidance.")
    clip: bool = Field(True, description="Clip every estimate of the clean image to [-1, 1].")
    augmentation: Literal["truncated", "non_truncated"] = "non_truncated"
    level: Unit = Field(0.0, description="s; 0 hands over the finished low-res image, whatever the kind.")


def ema_decay(decay: float, step: int) -> float:
    """Warmed-up decay ``min(decay, (1 + step) / (10 + step))``: early averages forget the initial weights."""
    return min(decay, (1 + step) / (10 + step))


def learning_rate_at(training: TrainingSpec, step: int) -> float:
    """Learning rate of ``step`` (0-based): linear warm-up, then constant, then inverse square root."""
    rate = training.learning_rate * min(1.0, (step + 1) / max(1, training.warmup))
    if training.decay_after is not None:
        rate *= math.sqrt(min(1.0, training.decay_after / (step + 1)))
    return rate
