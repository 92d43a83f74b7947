"""Descriptions of nets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.spec_base import PositiveInt, Spec, Unit


class UNetSpec(Spec):
    """A U-Net of residual blocks with attention at chosen feature-map sizes (DDPM, ADM layout)."""

    kind: Literal["unet"] = "unet"
    channels: PositiveInt = 64
    multipliers: tuple[PositiveInt, ...] = Field((1, 2), min_length=1)
    blocks: tuple[Annotated[int, Field(ge=0)], ...] | PositiveInt = Field(
        2, description="Residual blocks per level: one number, or one per multiplier (highest resolution first)."
    )
    attention: tuple[PositiveInt, ...] = Field((), description="Feature-map sizes (px) that get self-attention.")
    head_width: PositiveInt = 32
    dropout: Unit = 0.0
    patch: PositiveInt = Field(1, description="Side of the square patches that the first convolution reads.")

    @property
    def blocks_per_level(self) -> tuple[int, ...]:
        """Residual blocks of each level, highest resolution first."""
        return (self.blocks,) * len(self.multipliers) if isinstance(self.blocks, int) else self.blocks

    @model_validator(mode="after")
    def _levels_agree(self) -> UNetSpec:
        if len(self.blocks_per_level) != len(self.multipliers):
            raise ValueError(f"blocks has {len(self.blocks_per_level)} entries for {len(self.multipliers)} multipliers")
        return self

    def feature_sizes(self, size: int) -> tuple[int, ...]:
        """Side in px of the feature maps at each level for images of ``size`` px."""
        return tuple(size // self.patch // 2**level for level in range(len(self.multipliers)))

    def check_size(self, size: int) -> None:
        """Raise ValueError when images of ``size`` px cannot pass through this net."""
        step = self.patch * 2 ** (len(self.multipliers) - 1)
        if size % step:
            raise ValueError(
                f"a size of {size} px does not divide by {step} (patch {self.patch} and "
                f"{len(self.multipliers)} levels); choose another size, patch or number of multipliers"
            )
        sizes = self.feature_sizes(size)
        if unknown := sorted(set(self.attention) - set(sizes)):
            raise ValueError(f"attention at {unknown} px, but the feature maps are {list(sizes)} px")
        for side, multiplier in zip(sizes, self.multipliers, strict=True):
            width = self.channels * multiplier
            if side in self.attention and width % self.head_width:
                raise ValueError(f"head_width {self.head_width} does not divide the {width} channels at {side} px")


NetSpec = UNetSpec
