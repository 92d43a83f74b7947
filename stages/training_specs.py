"""Descriptions of training: steps, batch, optimizer, averages of the weights."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.spec_base import PositiveInt, Share, Spec

# Of a power-function average: the width of its profile over the time trained; that of the plain mean is 0.2887.
RelativeWidth = Annotated[float, Field(gt=0.0, lt=0.29)]


# Rebuilding solves a dense system of as many unknowns as averages are stored.
MOST_STORED = 500


class AveragesSpec(Spec):
    """Two power-function averages of the weights, stored every so often, from which any length is rebuilt (EDM2)."""

    widths: tuple[RelativeWidth, RelativeWidth] = Field((0.05, 0.1), description="Relative widths (sigma_rel).")
    every: PositiveInt = Field(description="Steps from one stored pair to the next; the last step is stored too.")

    @model_validator(mode="after")
    def _ordered(self) -> AveragesSpec:
        if not self.widths[0] < self.widths[1]:
            raise ValueError(f"widths {list(self.widths)} must be two, the narrower first")
        return self


class TrainingSpec(Spec):
    """How one stage is trained. Nothing here depends on the total number of steps, so more steps continue a run."""

    steps: PositiveInt
    batch_size: PositiveInt = Field(64, description="Global batch: all workers together.")
    micro_batch: PositiveInt | None = Field(
        None,
        description="Cut the global batch into pieces of this many consecutive examples and sum their gradients: then "
        "a run depends on the number of workers by rounding alone, dropout included. None: one piece for each worker.",
    )
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Annotated[int, Field(ge=0)] = 100
    decay_after: PositiveInt | None = Field(
        None, description="From this step the rate falls as sqrt(decay_after / step); None keeps it constant."
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Share, Share] = (0.9, 0.99)
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest gradient norm.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.999, description="Decay of the averaged weights, warmed up.")
    averages: AveragesSpec | None = Field(None, description="Stored averages that make the EMA length a late choice.")
    precision: Literal["f32", "bf16"] = "f32"

    @property
    def most_workers(self) -> int:
        """How many workers can share a step: as many as there are micro-batches; without, as there are examples."""
        return -(-self.batch_size // (self.micro_batch or 1))

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> TrainingSpec:
        if self.micro_batch is not None and self.micro_batch > self.batch_size:
            raise ValueError(
                f"micro_batch {self.micro_batch} is a part of the global batch, of which there are {self.batch_size} "
                f"(batch_size); lower it to {self.batch_size} or less"
            )
        return self

    @model_validator(mode="after")
    def _averages_are_few(self) -> TrainingSpec:
        if self.averages is not None and self.steps > MOST_STORED * self.averages.every:
            raise ValueError(
                f"averages.every {self.averages.every} stores more than {MOST_STORED} pairs in {self.steps} steps; "
                f"raise it to {-(-self.steps // MOST_STORED)} or more"
            )
        return self

    def check_ema_length(self, length: float) -> None:
        """Raise ValueError when an average of relative width ``length`` cannot be rebuilt after such a training."""
        # numpy comes in only where a length is asked for: reading a description is instant.
        from stages.averages import Profile, check_rebuilding, stored_steps

        if self.averages is None:
            raise ValueError(
                f"ema_length {length:g} is rebuilt from stored averages, of which training keeps none; "
                "give training.averages"
            )
        steps = stored_steps(self.averages.every, self.steps)
        stored = [Profile(width, step) for width in self.averages.widths for step in steps]
        check_rebuilding(stored, Profile(length, self.steps))


def ema_decay(decay: float, step: int) -> float:
    """Warmed-up decay ``min(decay, (1 + step) / (10 + step))``: early averages forget the initial weights."""
    return min(decay, (1 + step) / (10 + step))


def learning_rate_at(training: TrainingSpec, step: int) -> float:
    """Learning rate of ``step`` (0-based): linear warm-up, then constant, then inverse square root."""
    rate = training.learning_rate * min(1.0, (step + 1) / max(1, training.warmup))
    if training.decay_after is not None:
        rate *= math.sqrt(min(1.0, training.decay_after / (step + 1)))
    return rate
