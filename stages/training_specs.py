"""How a stage is trained and how it is sampled."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from stages.spec_base import PositiveInt, Spec, Unit


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
