"""What a classification accuracy score is, as the YAML says it. No torch here: reading an experiment is instant.

The published protocol (Ravuri and Vinyals 2019, arXiv 1905.10887) replaces every real training image by one sample of
its class, trains a ResNet-50 on these samples alone for 90 epochs, and tests it on one crop of every real validation
image. Its optimizer is SGD with momentum; the learning rate rises in a straight line from 0 to 0.4 during the first 5
epochs and is divided by 10 after epochs 30, 60 and 80. All of that are the defaults here. What is smaller than that
(another net, fewer epochs or images) is said in the result: a score names its net and what it was trained on.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.classifier_spec import Width
from pipeline.seeds import Seed
from stages.specs import PositiveInt, Spec

PROTOCOL_EPOCHS = 90
PROTOCOL_BATCH = 1024
WARMUP_EPOCHS = 5  # of 90
MILESTONES = (30, 60, 80)  # of 90: after each the learning rate is a tenth of what it was


class ResNetSpec(Spec):
    """A residual net as published, for images of any size."""

    kind: Literal["resnet50", "resnet18"] = "resnet50"
    stem: Literal["imagenet", "small"] = Field(
        "imagenet",
        description="imagenet: 7 x 7 in steps of 2, then pooling, as published; small: 3 x 3 in steps of 1 and no "
        "pooling, for images of 64 px and less.",
    )

    @property
    def words(self) -> str:
        """The net as a report names it."""
        name = {"resnet50": "ResNet-50", "resnet18": "ResNet-18"}[self.kind]
        return name if self.stem == "imagenet" else f"{name} with a 3 x 3 stem"


class SmallNetSpec(Spec):
    """The small convolutional net of `pipeline.classifier`, for small budgets."""

    kind: Literal["small"]
    channels: tuple[Width, ...] = Field((32, 64, 64), min_length=1, max_length=5)
    blocks: int = Field(1, ge=1, le=8, description="Convolutions per level.")

    @property
    def words(self) -> str:
        """The net as a report names it."""
        blocks = "" if self.blocks == 1 else f", {self.blocks} blocks each"
        return f"small convolutional net {'-'.join(map(str, self.channels))}{blocks}"


NetSpec = Annotated[ResNetSpec | SmallNetSpec, Field(discriminator="kind")]


class CasSpec(Spec):
    """The classification accuracy score; the defaults are the published protocol (see the module)."""

    net: NetSpec = ResNetSpec()
    epochs: PositiveInt = Field(
        PROTOCOL_EPOCHS, description="The milestones of the learning rate move in proportion to it."
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(PROTOCOL_BATCH, description="Images per step, over all workers.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        0.4, description="Peak for batches of 1024; for others in proportion to their size (the linear rule)."
    )
    warmup_epochs: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Epochs of the rise from 0 to the peak; None: 5 of 90, in proportion."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = Field(1e-4, description="Of all weights but batch norms'.")
    precision: Literal["bf16", "f32"] = Field("bf16", description="Of the net; the loss and the weights are float32.")
    crop: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.875,
        description="Side that the net sees, as a share of the image's (224 of 256 px in the protocol): training on a "
        "random part resized to it, testing on the centre. None, for tiny images: all of the image, shifted.",
    )
    shift: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.125,
        description="Largest random shift where there is no crop, as a share of the side.",
    )
    flip: bool = Field(True, description="Mirror half of the training images left to right.")
    images: PositiveInt | None = Field(
        None, description="Images to train on. None, the protocol: one sample for every training image."
    )
    shard_blocks: PositiveInt = Field(
        16, description="Canonical blocks of samples per shard: what is drawn by one task, and lost with it."
    )
    seed: Seed = Field(0, description="Of the samples, of the net's first weights, of the order and the crops.")

    @model_validator(mode="after")
    def _warmup_ends(self) -> CasSpec:
        if self.warmup_epochs is not None and self.warmup_epochs > self.milestones[0]:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} is longer than the {self.milestones[0]:g} epochs until the "
                "learning rate first falls; shorten it or train longer"
            )
        return self

    @property
    def milestones(self) -> tuple[float, ...]:
        """The epochs after which the learning rate falls: 30, 60 and 80 of 90."""
        return tuple(self.epochs * milestone / PROTOCOL_EPOCHS for milestone in MILESTONES)

    def rate_at(self, epoch: float) -> float:
        """The learning rate when ``epoch`` >= 0 epochs of images were seen."""
        warmup = self.epochs * WARMUP_EPOCHS / PROTOCOL_EPOCHS if self.warmup_epochs is None else self.warmup_epochs
        peak = self.learning_rate * self.batch_size / PROTOCOL_BATCH
        if epoch < warmup:
            return peak * epoch / warmup
        return peak * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)

    def steps(self, images: int) -> int:
        """Optimizer steps of a training on ``images``: the last batch is whole."""
        return -(-self.epochs * images // self.batch_size)

    def side(self, size: int) -> int:
        """The side in px that the net sees of an image of ``size`` px."""
        return size if self.crop is None else max(1, round(self.crop * size))
