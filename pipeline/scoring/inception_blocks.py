"""Inception-v3 as data: which convolutions it has and how they are wired. No torch, no weights, no arithmetic.

This is the net of Szegedy et al. 2015 (arXiv:1512.00567) in the form of TensorFlow's graph of 2015-12-05, by which FID
is defined. It differs from the paper's in its poolings: means leave out the border, and the last block takes a maximum.
Names are those of the state dict that torch-fidelity publishes, so this table is also the format of the weights file.

Read ``NET`` from top to bottom: each step takes what the last one gave. Sizes are those of an image of 299 px.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

SIZE = 299  # px of the images that the net sees
CLASSES = 1008
FEATURES = 2048


class Conv(NamedTuple):
    """A convolution without bias, batch norm, ReLU. ``padded``: the output is as large as the input (at stride 1)."""

    name: str
    width: int  # channels of the output
    kernel: tuple[int, int] = (1, 1)  # height, width
    stride: int = 1
    padded: bool = True


class Pool(NamedTuple):
    """Maximum or mean over 3 x 3; at stride 1 the output is as large as the input, at stride 2 it is not padded."""

    kind: Literal["max", "mean"]
    stride: int


class Fork(NamedTuple):
    """Branches that read the same input; their outputs are stacked by channel, in this order."""

    name: str
    branches: tuple[Steps, ...]


Step: TypeAlias = Conv | Pool | Fork
Steps: TypeAlias = tuple[Step, ...]

MEAN, MAX, HALVE = Pool("mean", 1), Pool("max", 1), Pool("max", 2)


def _local(name: str, pooled: int) -> Fork:
    """35 x 35: views of 1, 3 and 5 px; 5 x 5 also as two of 3 x 3."""
    return Fork(
        name,
        (
            (Conv("branch1x1", 64),),
            (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
            (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
            (MEAN, Conv("branch_pool", pooled)),
        ),
    )


def _wide(name: str, inner: int) -> Fork:
    """17 x 17: views of 7 and 13 px, each 7 x 7 as a row and a column."""
    row, column = (1, 7), (7, 1)
    return Fork(
        name,
        (
            (Conv("branch1x1", 192),),
            (Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, row), Conv("branch7x7_3", 192, column)),
            (
                Conv("branch7x7dbl_1", inner),
                Conv("branch7x7dbl_2", inner, column),
                Conv("branch7x7dbl_3", inner, row),
                Conv("branch7x7dbl_4", inner, column),
                Conv("branch7x7dbl_5", 192, row),
            ),
            (MEAN, Conv("branch_pool", 192)),
        ),
    )


def _broad(name: str, pool: Pool) -> Fork:
    """8 x 8: a row and a column beside each other instead of one after the other."""

    def cross(first: str, second: str) -> Fork:
        return Fork("", ((Conv(first, 384, (1, 3)),), (Conv(second, 384, (3, 1)),)))

    return Fork(
        name,
        (
            (Conv("branch1x1", 320),),
            (Conv("branch3x3_1", 384), cross("branch3x3_2a", "branch3x3_2b")),
            (
                Conv("branch3x3dbl_1", 448),
                Conv("branch3x3dbl_2", 384, (3, 3)),
                cross("branch3x3dbl_3a", "branch3x3dbl_3b"),
            ),
            (pool, Conv("branch_pool", 192)),
        ),
    )


STEM: Steps = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2, padded=False),  # 149 px
    Conv("Conv2d_2a_3x3", 32, (3, 3), padded=False),  # 147 px
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    HALVE,  # 73 px
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padded=False),  # 71 px
    HALVE,  # 35 px
)
TO_17: Steps = (
    Fork(
        "Mixed_6a",
        (
            (Conv("branch3x3", 384, (3, 3), stride=2, padded=False),),
            (
                Conv("branch3x3dbl_1", 64),
                Conv("branch3x3dbl_2", 96, (3, 3)),
                Conv("branch3x3dbl_3", 96, (3, 3), stride=2, padded=False),
            ),
            (HALVE,),
        ),
    ),
)
TO_8: Steps = (
    Fork(
        "Mixed_7a",
        (
            (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), stride=2, padded=False)),
            (
                Conv("branch7x7x3_1", 192),
                Conv("branch7x7x3_2", 192, (1, 7)),
                Conv("branch7x7x3_3", 192, (7, 1)),
                Conv("branch7x7x3_4", 192, (3, 3), stride=2, padded=False),
            ),
            (HALVE,),
        ),
    ),
)

# As far as the layer whose first channels are sFID's features, and from there to the layer before the mean.
TO_SPATIAL: Steps = (
    *STEM,
    *(_local("Mixed_5b", 32), _local("Mixed_5c", 64), _local("Mixed_5d", 64)),  # 256, 288, 288 channels
    *TO_17,  # 768 channels, as many as the next four
    *(_wide("Mixed_6b", 128), _wide("Mixed_6c", 160), _wide("Mixed_6d", 160)),
)
FROM_SPATIAL: Steps = (
    _wide("Mixed_6e", 192),
    *TO_8,  # 1280 channels
    *(_broad("Mixed_7b", MEAN), _broad("Mixed_7c", MAX)),  # 2048 channels
)
NET: Steps = (*TO_SPATIAL, *FROM_SPATIAL)
CONV_PARTS: Mapping[str, str] = {
    "scale": "bn.weight",
    "shift": "bn.bias",
    "mean": "bn.running_mean",
    "variance": "bn.running_var",
}


def kernel_shapes(steps: Steps = NET, channels: int = 3, prefix: str = "") -> dict[str, tuple[int, int, int, int]]:
    """Name -> (channels out, channels in, height, width) of every convolution of ``steps`` that read ``channels``."""
    return _walk(steps, channels, prefix)[0]


def _walk(steps: Steps, channels: int, prefix: str) -> tuple[dict[str, tuple[int, int, int, int]], int]:
    """The shapes of all kernels, and the number of channels that the last step gives."""
    shapes: dict[str, tuple[int, int, int, int]] = {}
    for step in steps:
        if isinstance(step, Conv):
            shapes[prefix + step.name] = (step.width, channels, *step.kernel)
            channels = step.width
        elif isinstance(step, Fork):
            within = f"{prefix}{step.name}." if step.name else prefix
            walked = [_walk(branch, channels, within) for branch in step.branches]
            for inner, _ in walked:
                shapes |= inner
            channels = sum(width for _, width in walked)
    return shapes, channels


def state_shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a weights file."""
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (CLASSES, FEATURES), "fc.bias": (CLASSES,)}
    for name, kernel in kernel_shapes().items():
        shapes[f"{name}.conv.weight"] = kernel
        shapes |= {f"{name}.{part}": kernel[:1] for part in CONV_PARTS.values()}
    return shapes
