"""Scores while a stage trains, as the YAML says it. No torch here. Nothing of it changes what is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.specs import PositiveInt, Spec


class WatchSpec(Spec):
    """Small chained scores of the averaged weights, every so many steps of training and at its last."""

    every: PositiveInt = Field(
        description="Steps of a stage from one score to the next. Weights wait for their turn while two later ones "
        "come; then the step is left out, for training does not wait."
    )
    samples: Annotated[int, Field(ge=2)] = Field(
        512, description="Images drawn for one score; FID needs more than there are features, KID does not."
    )
    reference: Annotated[int, Field(ge=2)] = Field(
        2000, description="Real training images that they are compared with, at most all."
    )
    sampling_steps: PositiveInt | None = Field(
        None, description="At most so many sampler steps at each stage; None: as many as in the end."
    )
    cpus: Annotated[float, Field(ge=0)] = Field(
        0.0, description="CPUs that a score waits for; 0: it runs at once, at low priority beside the training."
    )
    gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs, or a part of one, that a score waits for.")
    patience: Annotated[float, Field(gt=0)] = Field(
        300.0, description="Seconds that the scores of the last steps may take once everything else is done."
    )

    def caveat(self, *, features: int) -> str | None:
        """What a person must know of scores in so many ``features``."""
        if min(self.samples, self.reference) > features:
            return None
        return (
            f"scores during training: KID only, for FID in {features} features is refused with no more images; "
            "raise evaluation.during.samples and reference"
        )
