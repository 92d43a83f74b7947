"""What the scoring classifier is and how it trains, in words and numbers. No torch: YAML holds it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.seeds import Seed
from stages.specs import Spec

Width = Annotated[int, Field(ge=4, le=1024)]


class ClassifierSpec(Spec):
    """A small convolutional classifier trained on real images, the judge behind accuracy and FID features.

    The defaults suit the embedded data set: 1.00 on held-out images after about 10 s on one core.
    """

    channels: tuple[Width, ...] = Field(
        default=(32, 64, 64),
        min_length=1,
        max_length=5,
        description="width of each level, each half the size of the last; their sum is the number of features",
    )
    blocks: int = Field(default=1, ge=1, le=8, description="convolutions per level; residual from the second on")
    steps: int = Field(default=300, ge=1, description="optimizer steps")
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=5e-3, gt=0, description="peak of one cycle of AdamW")
    weight_decay: float = Field(default=0.02, ge=0)
    flip: bool = Field(default=False, description="mirror half of the training images left to right")
    seed: Seed | None = Field(
        default=None, description="Of its weights and order; None: the experiment's. Runs that are compared share one"
    )
    shift: int = Field(default=0, ge=0, le=16, description="largest random translation, px at the full size")
