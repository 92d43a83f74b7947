"""Images drawn in two ways, which must come out alike but for rounding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.cascade import Rung, TrainedStage, sample_stage
from stages.specs import StageSamplingSpec
from stages.stage import Stage

ROUNDING = 1e-2  # of values in [-1, 1], in float32; a level of 256 is 0.008
MEAN_BF16 = 0.01  # on average
STEPS = 8
SAMPLING = {"sampler": "ddim", "steps": STEPS, "guidance": 1.5}


@dataclass(frozen=True)
class Drawn:
    """The second of two blocks: images (B, 3, H, W) in [-1, 1] on the CPU, and the seconds that it took."""

    images: Tensor
    seconds: float


def net_of(stage: Stage) -> nn.Module:
    """A net away from the zeros that it begins with, on the CPU; always the same."""
    net, generator = stage.build_net(seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return net.eval().requires_grad_(False)


def drawn(stage: Stage, device: str, *, compiled: bool = False, precision: str = "f32", block: int = 8) -> Drawn:
    """Two blocks drawn by ``net_of`` on ``device``, of which the first may have had something to compile."""
    trained = TrainedStage(stage, net_of(stage).to(device), compiled)
    sampling, seconds = StageSamplingSpec.model_validate(SAMPLING), 0.0
    labels = torch.arange(block, device=device) % stage.spec.classes
    below = None
    if stage.spec.low_res_size is not None:
        size = stage.spec.low_res_size
        images = torch.rand(block, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
        below = Rung(images.to(device), {})
    for first in (0, block):
        started = time.monotonic()
        indices = torch.arange(first, first + block, device=device)
        images = sample_stage(trained, sampling, indices, labels, below, seed=0, precision=precision).images.cpu()
        seconds = time.monotonic() - started
    return Drawn(images, seconds)


def largest(one: Drawn, other: Drawn) -> float:
    """The largest difference of a value in [-1, 1]."""
    return float((one.images - other.images).abs().max())


def mean(one: Drawn, other: Drawn) -> float:
    """The mean difference of a value in [-1, 1]."""
    return float((one.images - other.images).abs().mean())


Distance = Callable[[Drawn, Drawn], float]
