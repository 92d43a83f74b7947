"""How a stage is sampled: the sampler and its grid, guidance, thresholding, and what its low-res input goes through."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.schedule_specs import ScheduleSpec, steps_of
from stages.spec_base import PositiveInt, Spec, Unit


class StageSamplingSpec(Spec):
    """How one stage is sampled. ``level`` is the augmentation level s its low-res input is given at."""

    sampler: Literal["ddim", "ancestral", "dpmpp_2m", "heun"] = Field(
        "ddim", description="dpmpp_2m: DPM-Solver++(2M), cautious where steps grow; heun calls the net twice a step."
    )
    steps: PositiveInt = 32
    eta: Unit = Field(0.0, description="Of DDIM: 0 is deterministic, 1 adds the noise of the ancestral sampler.")
    variance: Literal["posterior", "beta", "learned"] = Field(
        "posterior", description="Of the ancestral sampler: DDPM's two fixed choices, or what the net says."
    )
    schedule: ScheduleSpec | None = Field(
        None, description="Noise schedule whose grid is walked (SR3); None: that of training."
    )
    guidance: Annotated[float, Field(ge=0.0)] = Field(1.0, description="1 is no guidance.")
    guidance_interval: tuple[float, float] | None = Field(
        None, description="log-SNRs [low, high) between which guidance acts; None: everywhere."
    )
    thresholding: Literal["none", "static", "dynamic"] = Field(
        "static",
        description="static: every estimate of the clean image is clipped to [-1, 1]. Without, nets that predict eps "
        "go astray where there is almost no signal: their estimate divides by alpha.",
    )
    percentile: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.995, description="Of dynamic thresholding: the share of values that stay inside the range."
    )
    augmentation: Literal["truncated", "non_truncated"] = "non_truncated"
    level: Unit = Field(0.0, description="s; 0 hands over the finished low-res image, whatever the kind.")
    ema_length: Annotated[float, Field(gt=0.0, lt=0.29)] | None = Field(
        None,
        description="Relative width of the averaged weights, rebuilt after training from stored averages; "
        "None: the average that training keeps.",
    )

    @property
    def net_calls(self) -> int:
        """Evaluations of the net for one image, Heun takes two per step but the last, guidance doubles them.

        Guidance on an interval counts as guidance everywhere; a level that Heun is cut short at costs one more.
        """
        calls = 2 * self.steps - 1 if self.sampler == "heun" else self.steps
        return calls if self.guidance == 1.0 else 2 * calls

    @model_validator(mode="after")
    def _settings_belong_together(self) -> StageSamplingSpec:
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta belongs to the sampler ddim, not to {self.sampler}; remove it")
        if self.variance != "posterior" and self.sampler != "ancestral":
            raise ValueError(
                f"variance: {self.variance} belongs to the ancestral sampler, and {self.sampler} has none to choose; "
                "remove it or set sampler: ancestral"
            )
        if self.percentile != type(self).model_fields["percentile"].default and self.thresholding != "dynamic":
            raise ValueError(
                f"percentile belongs to dynamic thresholding, not to {self.thresholding}; remove it or set "
                "thresholding: dynamic"
            )
        return self

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> StageSamplingSpec:
        interval = self.guidance_interval
        if interval is not None and not interval[0] < interval[1]:
            raise ValueError(f"guidance_interval {list(interval)} must be given as [low, high] in log-SNR")
        own = steps_of(self.schedule) if self.schedule is not None else None
        if own is not None and own < self.steps:
            raise ValueError(
                f"sampling.steps {self.steps} is more than the {own} steps of sampling.schedule; lower it to {own} "
                "or give the schedule more steps"
            )
        return self
