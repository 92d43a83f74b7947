"""Which images an experiment is about, as the YAML says it. No torch here: reading an experiment is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.seeds import Seed
from stages.specs import PositiveInt, Spec


class DrawnData(Spec):
    """The procedural data set that the product draws itself."""

    kind: Literal["drawn"]
    size: Annotated[int, Field(ge=8, le=64)] = 32
    train: PositiveInt = 20000
    val: PositiveInt = 4000
    seed: Seed = 0


class ExpectedData(Spec):
    """What a data set will hold that is not there yet: enough to plan with."""

    train: PositiveInt
    classes: PositiveInt


class ImageData(Spec):
    """A class-per-folder tree of images or a tar of one, ingested on first use."""

    kind: Literal["images"]
    source: Path
    size: PositiveInt
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="Held out when there is no val/ folder.")
    expects: ExpectedData | None = Field(None, description="For a plan made before the data set is there.")


class ShardData(Spec):
    """A folder that ``rayfall ingest`` wrote."""

    kind: Literal["shards"]
    path: Path
    expects: ExpectedData | None = Field(None, description="For a plan made before the data set is there.")


DataSpec = Annotated[DrawnData | ImageData | ShardData, Field(discriminator="kind")]
