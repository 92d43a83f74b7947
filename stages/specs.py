"""Frozen, validated descriptions of a stage and of its training. No torch here: reading one is instant.

A spec says *what* a stage is; constructors elsewhere take plain keyword arguments, never a spec, so that
each part can be built in a notebook. Variants carry a ``kind``. Unknown keys are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.loss_specs import HybridLossSpec, LossSpec, RegressionLossSpec
from stages.net_specs import NetSpec, UNetSpec
from stages.sampling_specs import StageSamplingSpec
from stages.schedule_specs import CosineSchedule, ScheduleSpec, steps_of
from stages.spec_base import PositiveInt, Spec, Unit
from stages.training_specs import TrainingSpec, ema_decay, learning_rate_at

__all__ = [
    "AugmentationSpec",
    "BlurSpec",
    "CosineSchedule",
    "HybridLossSpec",
    "LossSpec",
    "NetSpec",
    "NoiseSpec",
    "PositiveInt",
    "RegressionLossSpec",
    "ScheduleSpec",
    "Spec",
    "StageSamplingSpec",
    "StageSettings",
    "StageSpec",
    "TrainingSpec",
    "UNetSpec",
    "Unit",
    "ema_decay",
    "learning_rate_at",
]


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

    s is a time of the previous stage's forward process; the paper's step i of T is s = (i - 1) / (T - 1). Truncated
    and non-truncated sampling use the same trained weights; they differ only in how z_s comes about when sampling.
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


BEYOND = 10.0  # log-SNR: how far past the ends of training an inference schedule may reach


class StageSettings(Spec):
    """What a person says of one rung: its sizes, its net and how that net is trained to denoise."""

    size: PositiveInt
    low_res_size: PositiveInt | None = Field(None, description="None for the base stage.")
    net: NetSpec
    schedule: ScheduleSpec = CosineSchedule()
    times: Literal["continuous", "steps", "gamma"] = Field(
        "continuous",
        description="How training draws noise levels: t uniform, one of the T steps (DDPM), or alpha-bar uniform "
        "between two neighbouring steps (SR3).",
    )
    conditioning: Literal["logsnr", "step", "gamma"] = Field(
        "logsnr", description="What the net is told of the noise: its log-SNR, step index, or root of alpha-bar (SR3)."
    )
    prediction: Literal["v", "eps", "x"] = "v"
    loss: LossSpec = RegressionLossSpec()
    augmentation: AugmentationSpec | None = None
    upsampling: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    label_drop: Unit = Field(
        0.1,
        description="Share of examples trained without their label, for guidance. 1: a stage that knows no classes.",
    )
    flip: bool = Field(False, description="Random horizontal flips, the same for both resolutions.")

    @property
    def is_base(self) -> bool:
        return self.low_res_size is None

    @property
    def learns_variance(self) -> bool:
        """Whether the net gives the variance of each reverse step beside its mean."""
        return isinstance(self.loss, HybridLossSpec)

    @property
    def knows_classes(self) -> bool:
        """Whether the net ever sees a label. One that does not is sampled without, whatever class is asked for."""
        return self.label_drop < 1.0

    def trained_levels(self) -> tuple[float, float]:
        """Range of augmentation levels s this stage was trained for; (0, 0) without noise augmentation."""
        return self.augmentation.noise.levels if self.augmentation and self.augmentation.noise else (0.0, 0.0)

    @model_validator(mode="after")
    def _parts_agree(self) -> StageSettings:
        self.net.check_size(self.size)
        if self.is_base and self.augmentation is not None:
            raise ValueError(
                "without low_res_size a stage has no low-resolution image to augment; set low_res_size or remove "
                "augmentation"
            )
        if self.low_res_size is not None and (self.size % self.low_res_size or self.size == self.low_res_size):
            raise ValueError(f"{self.size} px is not a multiple of the low-res {self.low_res_size} px")
        blur = self.augmentation.blur if self.augmentation else None
        if blur is not None and self.low_res_size is not None and blur.kernel // 2 > self.low_res_size:
            raise ValueError(f"a blur kernel of {blur.kernel} is too wide for low-res images of {self.low_res_size} px")
        smallest = self.loss.multiscale if isinstance(self.loss, RegressionLossSpec) else None
        if smallest is not None and (self.size % smallest or (self.size // smallest).bit_count() != 1):
            raise ValueError(
                f"loss.multiscale {smallest} does not come from {self.size} px by halving a whole number of times"
            )
        return self

    @model_validator(mode="after")
    def _method_agrees(self) -> StageSettings:
        """Losses, times and conditioning that speak of steps need a schedule that has them."""
        if steps_of(self.schedule) is None:
            for asks, setting in (
                (self.learns_variance, "loss: {kind: hybrid}"),
                (self.times != "continuous", f"times: {self.times}"),
                (self.conditioning == "step", "conditioning: step"),
            ):
                if asks:
                    raise ValueError(
                        f"{setting} needs a schedule of T steps, not {self.schedule.kind}; "
                        "use linear_beta or cosine_beta"
                    )
        if self.learns_variance and self.times != "steps":
            raise ValueError("loss: {kind: hybrid} sums over the T steps; set times: steps")
        return self

    def check_sampling(self, sampling: StageSamplingSpec) -> None:
        """Raise ValueError when a net trained so cannot be sampled so."""
        low, high = self.trained_levels()
        if not low <= sampling.level <= high:
            raise ValueError(
                f"sampling.level is {sampling.level:g}, outside the trained augmentation levels [{low:g}, {high:g}]; "
                "choose a level inside or widen augmentation.noise.levels"
            )
        if sampling.variance == "learned" and not self.learns_variance:
            raise ValueError("sampling.variance is learned, but only loss: {kind: hybrid} trains one; use posterior")
        if sampling.guidance != 1.0 and self.label_drop == 0.0:
            raise ValueError(
                f"sampling.guidance {sampling.guidance:g} needs a net that knows no label; set label_drop above 0"
            )
        if sampling.guidance != 1.0 and not self.knows_classes:
            raise ValueError(
                f"sampling.guidance {sampling.guidance:g} needs a net that knows classes, and label_drop 1 leaves it "
                "none; lower label_drop, or set guidance to 1"
            )
        trained = steps_of(self.schedule)
        if sampling.schedule is not None:
            if self.conditioning == "step":
                raise ValueError(
                    "sampling.schedule is another than that of training, whose steps are all the net knows "
                    "(conditioning: step); train with conditioning: gamma or logsnr"
                )
            (noisy, clean), own = self.schedule.ends, sampling.schedule.ends
            if own[0] < noisy - BEYOND or own[1] > clean + BEYOND:
                raise ValueError(
                    f"sampling.schedule runs over log-SNR {own[0]:.3g} to {own[1]:.3g}, far beyond the {noisy:.3g} to "
                    f"{clean:.3g} of training; bring its ends within {BEYOND:g} of them"
                )
        elif self.times == "steps" and trained is not None and sampling.steps > trained:
            raise ValueError(f"sampling.steps {sampling.steps} is more than the {trained} steps of the schedule")


class StageSpec(StageSettings):
    """One rung: everything needed to build its net, train it and sample from it."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    classes: PositiveInt
    low_res_schedule: ScheduleSpec | None = Field(
        None, description="Schedule of the stage below: what an augmentation level s means. None for the base stage."
    )

    @model_validator(mode="after")
    def _low_res_is_described(self) -> StageSpec:
        if self.is_base != (self.low_res_schedule is None):
            raise ValueError(f"stage {self.name}: low_res_size and low_res_schedule belong together")
        return self

    @property
    def labels(self) -> int:
        """Rows of the label embedding: the classes, and "no label" where labels are dropped in training."""
        return self.classes + (self.label_drop > 0.0)
