"""What the machine can do at most, as products of matrices, convolutions and copies of torch reach it in the same run.

A share of a peak is of these, never of a data sheet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.benchmarks.timing import Variant

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Sizes:
    """How large the operands are: large enough to be limited by arithmetic, small enough to take moments."""

    matrix: int  # side of square matrices
    batch: int  # of the images that are convolved, with a 3x3 kernel and as many channels out as in
    channels: int
    side: int  # px
    copied: int  # numbers in float32: many times what a cache holds


CPU = Sizes(matrix=1536, batch=16, channels=128, side=16, copied=2**26)
GPU = Sizes(matrix=8192, batch=64, channels=512, side=32, copied=2**28)
MEMORY = "memory"


def peak_variants(device: torch.device, precision: str) -> list[Variant]:
    """``matrix PRECISION`` and ``convolution PRECISION``, whose units are FLOPs: a multiply-add counts as two."""
    sizes, kind = (GPU if device.type == "cuda" else CPU), TYPES[precision]
    matrix = torch.randn(sizes.matrix, sizes.matrix, device=device, dtype=kind)
    images = torch.randn(sizes.batch, sizes.channels, sizes.side, sizes.side, device=device, dtype=kind)
    kernel = torch.randn(sizes.channels, sizes.channels, 3, 3, device=device, dtype=kind)
    if device.type == "cuda" or precision == "f32":  # the faster layout of each, as measured
        images = images.contiguous(memory_format=torch.channels_last)
    products = 2.0 * sizes.matrix**3
    convolutions = 2.0 * 9 * sizes.batch * (sizes.channels * sizes.side) ** 2
    repeats = 20 if device.type == "cuda" else 1
    return [
        Variant(f"matrix {precision}", _repeated(lambda: matrix @ matrix, products, repeats)),
        Variant(
            f"convolution {precision}",
            _repeated(lambda: F.conv2d(images, kernel, padding=1), convolutions, 4 * repeats),
        ),
    ]


def memory_variant(device: torch.device) -> Variant:
    """``memory``, whose units are bytes, read and written each counted: what an optimizer is limited by."""
    sizes, repeats = (GPU, 20) if device.type == "cuda" else (CPU, 1)
    source = torch.zeros(sizes.copied, device=device)
    target = torch.ones_like(source)
    return Variant(MEMORY, _repeated(lambda: target.copy_(source), 2.0 * source.nbytes, repeats))


def _repeated(run: Callable[[], Tensor], units: float, repeats: int) -> Callable[[], float]:
    @torch.inference_mode()
    def timed() -> float:
        for _ in range(repeats):
            run()
        return repeats * units

    return timed
