"""Descriptions of nets: what a person writes under ``net:``. One class per ``kind``; no torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from stages.spec_base import PositiveInt, Share, Spec, by_kind

Count = Annotated[int, Field(ge=0)]


class LevelsSpec(Spec):
    """What all nets share: levels of falling resolution, an entry that may shrink the image, dropout."""

    channels: PositiveInt = 64
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2), min_length=1, description="Width of each level in units of channels, highest resolution first."
    )
    blocks: tuple[Count, ...] | PositiveInt = Field(
        2, description="Residual blocks per level: one number, or one per multiplier (highest resolution first)."
    )
    dropout: Share = 0.0
    dropout_below: PositiveInt | None = Field(
        None, description="Dropout only on feature maps of at most this many px; None: on all."
    )
    embedding: PositiveInt | None = Field(
        None, description="Width of the embedding of noise level, label and augmentation level; None: 4 channels."
    )
    patch: PositiveInt = Field(1, description="Factor by which images are shrunk on entry, their pixels as channels.")
    patching: Literal["conv", "haar", "cdf53"] = Field(
        "conv", description="How: a strided convolution, or an invertible wavelet transform of log2(patch) levels."
    )

    @property
    def convolutional_levels(self) -> int:
        """Levels that consist of residual blocks."""
        return len(self.multipliers)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, highest resolution first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def blocks_per_level(self) -> tuple[int, ...]:
        """Residual blocks of each convolutional level, highest resolution first."""
        return (self.blocks,) * self.convolutional_levels if isinstance(self.blocks, int) else self.blocks

    @property
    def embedding_width(self) -> int:
        return 4 * self.channels if self.embedding is None else self.embedding

    @model_validator(mode="after")
    def _levels_agree(self) -> LevelsSpec:
        given, wanted = len(self.blocks_per_level), self.convolutional_levels
        if given != wanted:
            whose = f"{len(self.multipliers)} multipliers"
            if wanted != len(self.multipliers):
                whose += f", of which {wanted} are convolutional"
            raise ValueError(f"blocks has {given} entries for {whose}")
        return self

    @model_validator(mode="after")
    def _wavelet_fits(self) -> LevelsSpec:
        if self.patching != "conv" and (self.patch == 1 or self.patch & (self.patch - 1)):
            raise ValueError(
                f"patching {self.patching!r} halves the image a whole number of times, so patch must be "
                f"2, 4, 8, ..., not {self.patch}"
            )
        return self

    def feature_sizes(self, size: int) -> tuple[int, ...]:
        """Side in px of the feature maps at each level for images of ``size`` px."""
        return tuple(size // self.patch // 2**level for level in range(len(self.multipliers)))

    def block_sizes(self, size: int) -> tuple[int, ...]:
        """Side in px of the feature maps that blocks work on, which training may compute again instead of keeping."""
        return self.feature_sizes(size)

    def dropouts(self, size: int) -> tuple[float, ...]:
        """Dropout of each level for images of ``size`` px."""
        limit = size if self.dropout_below is None else self.dropout_below
        return tuple(self.dropout if side <= limit else 0.0 for side in self.feature_sizes(size))

    def check_size(self, size: int) -> None:
        """Raise ValueError when images of ``size`` px cannot pass through this net."""
        step = self.patch * 2 ** (len(self.multipliers) - 1)
        if size % step:
            raise ValueError(
                f"a size of {size} px does not divide by {step} (patch {self.patch} and "
                f"{len(self.multipliers)} levels); choose another size, patch or number of multipliers"
            )
        sizes = self.feature_sizes(size)
        if self.dropout and self.dropout_below is not None and self.dropout_below < sizes[-1]:
            raise ValueError(
                f"dropout_below {self.dropout_below} px leaves no place for dropout: "
                f"the feature maps are {list(sizes)} px"
            )


class AttentiveSpec(LevelsSpec):
    """A net of levels, some of which have self-attention."""

    attention: tuple[PositiveInt, ...] = Field((), description="Feature-map sizes (px) that get self-attention.")

    def attention_levels(self, size: int) -> tuple[int, ...]:
        """Levels (0 = highest resolution) with self-attention, for images of ``size`` px."""
        return tuple(level for level, side in enumerate(self.feature_sizes(size)) if side in self.attention)

    def check_size(self, size: int) -> None:
        super().check_size(size)
        sizes = self.feature_sizes(size)
        if unknown := sorted(set(self.attention) - set(sizes)):
            raise ValueError(f"attention at {unknown} px, but the feature maps are {list(sizes)} px")


class UNetSpec(AttentiveSpec):
    """A U-Net of residual blocks with attention at chosen feature-map sizes; pooling between levels."""

    kind: Literal["unet"] = "unet"
    head_width: PositiveInt = 32

    def check_size(self, size: int) -> None:
        super().check_size(size)
        sizes, levels = self.feature_sizes(size), self.attention_levels(size)
        attended = [(self.widths[level], sizes[level]) for level in levels]
        if len(sizes) - 1 in levels:  # so the middle has attention too, at the width that the way down ends with
            reached = [width for width, count in zip(self.widths, self.blocks_per_level, strict=True) if count]
            attended.append((reached[-1] if reached else self.channels, sizes[-1]))
        for width, side in attended:
            if width % self.head_width:
                raise ValueError(f"head_width {self.head_width} does not divide the {width} channels at {side} px")


class ADMSpec(AttentiveSpec):
    """The U-Net of Dhariwal & Nichol 2021 (ADM); other settings give those of DDPM, SR3 and CDM.

    ADM's own are the defaults of ``resampling`` and ``modulation``; DDPM's are ``conv`` and ``add``. ``blocks``
    counts those on the way down, the way up has one more per level. The middle has attention in any case.
    """

    kind: Literal["adm"] = "adm"
    blocks: tuple[PositiveInt, ...] | PositiveInt = Field(
        2, description="Residual blocks per level: one number, or one per multiplier (highest resolution first)."
    )
    head_width: PositiveInt | None = Field(None, description="Channels of an attention head; or give heads.")
    heads: PositiveInt | None = Field(None, description="Attention heads at every size; or give head_width.")
    resampling: Literal["block", "conv", "pool"] = Field(
        "block", description="Between levels: residual blocks (BigGAN), convolutions (DDPM), or pooling alone."
    )
    modulation: Literal["scale_shift", "add"] = Field(
        "scale_shift", description="How the embedding enters a residual block: as scale and shift, or added (DDPM)."
    )

    @model_validator(mode="after")
    def _heads_are_given_once(self) -> ADMSpec:
        if (self.head_width is None) == (self.heads is None):
            raise ValueError("an adm net needs exactly one of head_width and heads")
        if self.channels % 2:
            raise ValueError(f"channels {self.channels} must be even: half of the noise embedding are sines")
        return self

    def check_size(self, size: int) -> None:
        super().check_size(size)
        sizes = self.feature_sizes(size)
        name, divisor = ("head_width", self.head_width) if self.head_width else ("heads", self.heads)
        assert divisor is not None
        for level in sorted({*self.attention_levels(size), len(sizes) - 1}):
            width, side = self.widths[level], sizes[level]
            if width % divisor:
                raise ValueError(f"{name} {divisor} does not divide the {width} channels at {side} px")


class UViTSpec(LevelsSpec):
    """The U-ViT of simple diffusion: residual blocks at high resolution, a transformer at the lowest.

    The last multiplier is the transformer's width, so ``blocks`` counts one level less than ``multipliers``.
    """

    kind: Literal["uvit"] = "uvit"
    depth: PositiveInt = Field(4, description="Transformer blocks at the lowest level.")
    head_width: PositiveInt = 64
    mlp_ratio: PositiveInt = Field(4, description="Hidden width of the transformer's perceptrons over its width.")
    skips: Literal["block", "residual"] = Field(
        "block", description="Long skips: one per residual block (simple diffusion), or one per downsampling (SiD2)."
    )

    @property
    def convolutional_levels(self) -> int:
        return len(self.multipliers) - 1

    def block_sizes(self, size: int) -> tuple[int, ...]:
        counts = (*self.blocks_per_level, self.depth)
        return tuple(side for side, count in zip(self.feature_sizes(size), counts, strict=True) if count)

    @model_validator(mode="after")
    def _every_resolution_reaches_the_output(self) -> UViTSpec:
        if self.skips == "block" and 0 in self.blocks_per_level:
            raise ValueError("a level of 0 blocks has no long skip, so its detail is lost; give it a block or more")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> UViTSpec:
        if self.widths[-1] % self.head_width:
            raise ValueError(
                f"head_width {self.head_width} does not divide the transformer's {self.widths[-1]} channels"
            )
        return self


NetSpec = Annotated[
    Annotated[UNetSpec, Tag("unet")] | Annotated[ADMSpec, Tag("adm")] | Annotated[UViTSpec, Tag("uvit")],
    by_kind("unet"),
]
