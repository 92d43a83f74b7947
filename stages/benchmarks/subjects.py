"""The work that is measured: one optimizer step as training makes it, one call of the denoiser as samplers make it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stages.cascade import TrainedStage, conditioned
from stages.compilers import Asked
from stages.compiling import compiled as compiled_net
from stages.images import downsample
from stages.randomness import KeyedDraws
from stages.specs import StageSpec, TrainingSpec
from stages.stage import LowRes, Stage, parameter_count
from stages.training import Batch, TrainState, positions_for, train_step

OURS = "rayfall"


@dataclass(frozen=True)
class Work:
    """What all subjects of a comparison have in common."""

    size: int  # px
    low_res_size: int | None
    classes: int
    batch: int
    device: torch.device

    @property
    def channels_in(self) -> int:
        """Those that a net sees: the noisy image, and the low-res one above the base stage."""
        return 3 if self.low_res_size is None else 6


@dataclass(frozen=True)
class Subject:
    """Somebody's way of doing it. ``train`` takes one optimizer step on the batch, ``sample`` calls the net once."""

    name: str
    precision: str  # "f32" or "bf16"
    net: nn.Module
    train: Callable[[], Any]
    sample: Callable[[], Any]

    @property
    def parameters(self) -> int:
        return parameter_count(self.net)


@dataclass(frozen=True)
class Flops:
    """Counted, per image, by what was executed: products of matrices, convolutions and attention; elementwise work is
    left out, as the literature does."""

    forward: float
    training: float  # forward and backward


def count_flops(subject: Subject, batch: int) -> Flops:
    """Count one call of ``sample`` and one of ``train``. Attention is counted as the two products that it is."""
    counts = []
    for run in (subject.sample, subject.train):
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            counter = stack.enter_context(FlopCounterMode(display=False))
            run()
        counts.append(counter.get_total_flops() / batch)
    return Flops(*counts)


def rayfall(work: Work, spec: StageSpec, precision: str, *, compiled: Asked = False) -> Subject:
    """The step that production runs (``stages.training.train_step``) and the denoiser that it samples with.

    All that belongs to a step is in it: keyed draws, loss, backward pass, clipping, fused AdamW, the average. Compiled
    nets are drawn from as production does it, in one launch a call where they are on a GPU.
    """
    stage = Stage.build(spec)
    training = TrainingSpec.model_validate({"steps": 10**6, "batch_size": work.batch, "precision": precision})
    state = TrainState.start(stage, training, 0, work.device)
    batch = batch_of(work)
    stored = replace(batch, images=batch.images.to(memory_format=torch.channels_last))  # as bytes come from shards
    graphs = compiled == "graphs"
    trained: Any = compiled_net(state.net, graphs=graphs, or_error=True) if compiled else state.net
    sampled = TrainedStage(stage, state.ema, bool(compiled)).net_in(precision)
    logsnr = torch.zeros(())
    low_res = None
    if work.low_res_size is not None:
        low_res = LowRes(downsample(batch.images, work.low_res_size), logsnr.to(work.device).expand(work.batch))
    denoise = conditioned(stage.denoiser(sampled), batch.labels, low_res, precision=precision)

    def train() -> Tensor:
        return train_step(stage, state, stored, model=trained, training=training, seed=0).loss

    @torch.inference_mode()
    def sample() -> Tensor:
        return denoise(batch.images, logsnr).x_hat

    return Subject(f"{OURS} {precision}{named(compiled)}", precision, state.net, train, sample)


def named(compiled: Asked) -> str:
    """The end of a subject's name."""
    return " graphs" if compiled == "graphs" else " compiled" if compiled else ""


def batch_of(work: Work) -> Batch:
    """The images and labels of every step: the same for all subjects."""
    positions = torch.arange(work.batch)
    draws = KeyedDraws(0, "benchmark")
    images = draws.uniform("images", 0, positions, (3, work.size, work.size)) * 2.0 - 1.0
    labels = (draws.uniform("labels", 0, positions) * work.classes).long()
    return Batch(images.to(work.device), labels.to(work.device), positions_for(work.device, positions))
