"""Which images an experiment is about, as the YAML says it. No torch here: reading an experiment is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.data.manifest import Encoding
from pipeline.seeds import Seed
from stages.specs import PositiveInt, Spec

Location = Annotated[str, Field(min_length=1, description="A local path, or s3://bucket/prefix.")]


class ShuffleSpec(Spec):
    """How training mixes the shards (`pipeline.data.ordering`)."""

    window: PositiveInt = Field(16, description="Shards whose examples are mixed with each other.")
    lanes: PositiveInt = Field(
        1,
        description="Parts of the epoch read side by side; a multiple of the nodes lets each node read its own share.",
    )


class DataSettings(Spec):
    """What every kind of data has."""

    shuffle: ShuffleSpec = ShuffleSpec()


class DrawnData(DataSettings):
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


class ImageData(DataSettings):
    """A class-per-folder tree of images, a tar of one or WebDataset shards, ingested on first use."""

    kind: Literal["images"]
    source: Location
    size: PositiveInt
    encoding: Encoding = Field("png", description="How the images are stored.")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="Held out when there is no val/ folder.")
    max_undecodable: Annotated[int, Field(ge=0)] = Field(0, description="Files that may turn out to be no image.")
    expects: ExpectedData | None = Field(None, description="For a plan made before the data set is there.")

    @property
    def location(self) -> str:
        return self.source


class ShardData(DataSettings):
    """What ``rayfall ingest`` wrote, in a folder or an object store."""

    kind: Literal["shards"]
    path: Location
    reduction: Literal["box", "dct"] = Field(
        "box",
        description="How a stage smaller than the stored images gets its own: box means, or JPEG decoded at a "
        "fraction of its size (faster, slightly other pixels).",
    )
    expects: ExpectedData | None = Field(None, description="For a plan made before the data set is there.")

    @property
    def location(self) -> str:
        return self.path


SHARD_SIZE = 5000  # examples, of data sets that an experiment makes itself

DataSpec = Annotated[DrawnData | ImageData | ShardData, Field(discriminator="kind")]


def absolute(location: str) -> str:
    """A location as any process of the cluster can use it: paths made absolute, object stores as they are."""
    return location if "://" in location else str(Path(location).expanduser().resolve())
