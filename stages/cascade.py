"""The chain: stages joined, which happens only when sampling.

Images are made in *canonical blocks* of consecutive indices. The net always sees exactly one whole block (the
last is padded with the indices that would follow), because a matrix product of another batch size differs in
the last bits; and all noise is keyed by image index. So the same image comes out on any number of workers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from stages.compiling import compiled
from stages.guidance import guided, thresholded
from stages.randomness import KeyedDraws
from stages.samplers import Denoise, sample, step_rule
from stages.schedules import build_schedule, logsnr_of_level, sampling_grid
from stages.specs import StageSamplingSpec
from stages.stage import Denoiser, LowRes, Prediction, Stage


@dataclass(frozen=True)
class TrainedStage:
    """A stage with the weights to sample from (the EMA, as a rule), which do not change any more."""

    stage: Stage
    net: nn.Module
    compiled: bool = False  # whether the net is called compiled (stages.compiling), which takes a C++ compiler

    def net_in(self, precision: str) -> nn.Module:
        """The net to call under the autocast of ``precision``: for "bf16" one that is cast already.

        Raises CannotCompile where it is to be compiled and cannot be.
        """
        return self._called_in_bf16 if precision == "bf16" else self._called

    @cached_property
    def _called(self) -> nn.Module:
        return self._as_called(self.net)

    @cached_property
    def _called_in_bf16(self) -> nn.Module:
        return self._as_called(self._cast())

    def _as_called(self, net: nn.Module) -> nn.Module:
        """Where nets are compiled, into one launch per call on a GPU."""
        return compiled(net, graphs=True) if self.compiled else net

    def _cast(self) -> nn.Module:
        """A copy with the weights of convolutions and matrix products in bf16, to the bits of what autocast would make
        of them in every call anew; norms and embeddings stay as they are."""
        net = copy.deepcopy(self.net)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(torch.bfloat16)
        return net


@dataclass(frozen=True)
class Rung:
    """What a stage hands upward for one block of images: the finished images and z_s at the levels kept."""

    images: Tensor  # (B, C, H, W) in [-1, 1]
    kept: dict[float, Tensor]  # level s -> z_s (B, C, H, W)


def blocks_of(count: int, block: int) -> Iterator[tuple[Tensor, int]]:
    """Canonical blocks of ``count`` image indices: (indices (block,), how many of them are asked for)."""
    for first in range(0, count, block):
        yield torch.arange(first, first + block), min(block, count - first)


def low_res_input(stage: Stage, below: Rung, indices: Tensor, draws: KeyedDraws, *, kind: str, level: float) -> LowRes:
    """What ``stage`` is conditioned on at augmentation level s: the rung below, as it is, re-noised or cut short."""
    levels = torch.full((len(indices),), level, device=below.images.device)
    if kind == "truncated" and level > 0.0:
        assert stage.low_res_schedule is not None, "only a super-resolution stage has a low-res input"
        return LowRes(below.kept[level], stage.low_res_schedule(levels))
    image = below.images
    noise = draws.normal("low-res noise", 0, indices, image.shape[1:]) if level > 0.0 else torch.zeros_like(image)
    return stage.low_res_for(image, levels, noise)


def grid_of(stage: Stage, sampling: StageSamplingSpec) -> Tensor:
    """The log-SNRs that sampling walks, (steps + 1,): of the schedule of training, or of one of its own (SR3)."""
    if sampling.schedule is None:
        return sampling_grid(stage.schedule, sampling.steps)
    return sampling_grid(build_schedule(sampling.schedule, stage.spec.size), sampling.steps)


def conditioned(denoiser: Denoiser, labels: Tensor, low_res: LowRes | None, *, precision: str) -> Denoise:
    """``denoiser`` with ``labels`` (B,) and the low-res images filled in, its net run in autocast for "bf16"."""

    def denoise(z: Tensor, logsnr: Tensor) -> Prediction:
        with torch.autocast(z.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return denoiser(
                z,
                logsnr,
                label=labels,
                low_res=None if low_res is None else low_res.image,
                aug_logsnr=None if low_res is None else low_res.aug_logsnr,
            )

    return denoise


@torch.inference_mode()
def sample_stage(
    trained: TrainedStage,
    sampling: StageSamplingSpec,
    indices: Tensor,
    labels: Tensor,
    below: Rung | None,
    *,
    seed: int,
    keep: Sequence[float] = (),
    precision: str = "f32",
) -> Rung:
    """One stage's images for one block of image ``indices`` (B,) with ``labels`` (B,), in [-1, 1].

    ``below`` is the same block from the stage underneath (or real low-res images: the oracle), None for the base
    stage. ``keep`` are levels s whose z_s the next stage may ask for: times of the schedule of training, whichever
    is walked. ``precision`` "bf16" runs the net in autocast; the sampler's arithmetic stays in float32.
    """
    stage, spec = trained.stage, trained.stage.spec
    draws = KeyedDraws(seed, f"sampling {spec.name}", fused=trained.compiled)
    low_res = None
    if below is not None:
        low_res = low_res_input(stage, below, indices, draws, kind=sampling.augmentation, level=sampling.level)
    denoiser = stage.denoiser(trained.net_in(precision))
    denoiser = guided(denoiser, sampling.guidance, no_label=spec.classes, interval=sampling.guidance_interval)
    denoiser = thresholded(denoiser, sampling.thresholding, percentile=sampling.percentile)

    def noise(purpose: str, step: int) -> Tensor:
        return draws.normal(purpose, step, indices, (3, spec.size, spec.size))

    images, kept = sample(
        conditioned(denoiser, labels, low_res, precision=precision),
        noise("start", 0),
        grid_of(stage, sampling),
        rule=step_rule(sampling.sampler, eta=sampling.eta, variance=sampling.variance),
        noise=noise,
        keep=[logsnr_of_level(stage.schedule, level) for level in keep],
    )
    return Rung(images.clamp(-1.0, 1.0), dict(zip(keep, kept, strict=True)))


def levels_kept(sampling: Sequence[StageSamplingSpec], number: int) -> list[float]:
    """The levels whose z_s stage ``number`` of a chain hands upward: that of the stage above it, where it truncates."""
    above = sampling[number + 1] if number + 1 < len(sampling) else None
    return [above.level] if above and above.augmentation == "truncated" and above.level > 0 else []


@dataclass(frozen=True)
class Cascade:
    """The ordered stages, base first, each with how it is sampled."""

    stages: Sequence[TrainedStage]
    sampling: Sequence[StageSamplingSpec]

    def sample_block(self, indices: Tensor, labels: Tensor, *, seed: int, precision: str = "f32") -> list[Rung]:
        """Every rung of the chain for one canonical block, base first."""
        rungs: list[Rung] = []
        for number, (trained, sampling) in enumerate(zip(self.stages, self.sampling, strict=True)):
            rungs.append(
                sample_stage(
                    trained,
                    sampling,
                    indices,
                    labels,
                    rungs[-1] if rungs else None,
                    seed=seed,
                    keep=levels_kept(self.sampling, number),
                    precision=precision,
                )
            )
        return rungs
