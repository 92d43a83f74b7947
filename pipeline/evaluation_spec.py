"""How samples are drawn and judged, as the YAML says it. No torch here: reading an experiment is instant."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.cas.spec import CasSpec
from pipeline.classifier_spec import ClassifierSpec
from pipeline.scorer_specs import ClassifierScorer, Scorer
from pipeline.seeds import Seed
from pipeline.watching.spec import WatchSpec
from stages.specs import PositiveInt, Spec


class BoundSpec(Spec):
    """The variational bound, in bits per dimension, of held-out images under every stage whose schedule has T steps."""

    images: PositiveInt = Field(256, description="Held-out real images.")
    steps: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Steps of the chain that the bound is of; None: all T. Fewer are faster and looser."
    )


class EvaluationSpec(Spec):
    """How samples are drawn and judged."""

    samples: PositiveInt = Field(1000, description="Generated images per stage.")
    reference: PositiveInt = Field(5000, description="Real training images that make the reference statistics.")
    held_out: PositiveInt | None = Field(
        None,
        description="Held-out real images: the second reference, the row of real images, and the low-res images of "
        "oracle samples. None: as many as samples.",
    )
    labels: Literal["uniform", "histogram"] = Field(
        "uniform",
        description="Classes of the samples: all in turn, or those of the training images (sample i has the class of "
        "training image i, in the random order of the shards).",
    )
    block: PositiveInt = Field(
        64, description="Images per canonical block; it changes the last bits, so it is digested."
    )
    seed: Seed = 0
    precision: Literal["f32", "bf16"] = "f32"
    neighbours: PositiveInt = Field(3, description="k of precision and recall.")
    scorer: Scorer = Field(ClassifierScorer(), description="Whose features the scores are of.")
    also: tuple[Scorer, ...] = Field((), description="Further scorers, whose scores stand beside those of the first.")
    classifier: ClassifierSpec = ClassifierSpec()
    memorised: Annotated[int, Field(ge=0)] = Field(
        16, description="Samples whose nearest training images are looked for; 0: none."
    )
    keep_samples: bool = Field(
        False, description="Keep the samples of each cascade as WebDataset shards, with one form per stage."
    )
    cas: CasSpec | None = Field(None, description="The classification accuracy score; None: it is not computed.")
    bound: BoundSpec | None = Field(None, description="None: no variational bound is computed.")
    during: WatchSpec | None = Field(None, description="Scores while stages train; None: only when they are done.")

    @model_validator(mode="after")
    def _scorers_differ(self) -> EvaluationSpec:
        names = [scorer.name for scorer in self.scorers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"evaluation.also names the scorer {name} again; a scorer is named once")
        return self

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """All of them, the first being the one that is ranked by."""
        return (self.scorer, *self.also)

    @property
    def held_out_images(self) -> int:
        return self.held_out or self.samples
