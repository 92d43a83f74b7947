"""How samples are drawn and judged, as the YAML says it. No torch here: reading an experiment is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.classifier_spec import ClassifierSpec
from pipeline.seeds import Seed
from stages.specs import PositiveInt, Spec


class ClassifierScorer(Spec):
    """FID in the features of a classifier trained on the data set itself (its scale means nothing elsewhere)."""

    kind: Literal["classifier"] = "classifier"


class InceptionScorer(Spec):
    """FID in the features of Inception-v3, from a weights file in torch-fidelity's format."""

    kind: Literal["inception"]
    weights: Path


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
    block: PositiveInt = Field(
        64, description="Images per canonical block; it changes the last bits, so it is digested."
    )
    seed: Seed = 0
    precision: Literal["f32", "bf16"] = "f32"
    neighbours: PositiveInt = Field(3, description="k of precision and recall.")
    scorer: Annotated[ClassifierScorer | InceptionScorer, Field(discriminator="kind")] = ClassifierScorer()
    classifier: ClassifierSpec = ClassifierSpec()
    bound: BoundSpec | None = Field(None, description="None: no variational bound is computed.")
