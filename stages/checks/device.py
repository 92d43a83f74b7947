"""What a training relies on a device for: equal draws, steps that wait for nothing and survive, states that move."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from stages.checkpoints import Checkpoint, load_state
from stages.checks.training import Steps, Way, stage_of
from stages.randomness import KeyedDraws
from stages.training import TrainState

POSITIONS = 4096


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products of float32 in float32, not in TF32, and kernels that add up in one order where there are such."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, products.allow_tf32, cudnn.deterministic
    cudnn.allow_tf32, products.allow_tf32, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32, cudnn.deterministic = before


def other_words(device: str, *, fused: bool) -> float:
    """How many of the random words drawn on ``device`` are not those of a CPU."""
    positions = torch.arange(POSITIONS) + 2**32 - POSITIONS // 2  # on both sides of what 32 bits hold
    there = KeyedDraws(1, "checked", fused=fused).words("words", 7, positions.to(device), 6).cpu()
    return float((there != KeyedDraws(1, "checked").words("words", 7, positions, 6)).sum())


def normals_apart(device: str, *, fused: bool) -> float:
    """By how much normal draws on ``device`` differ from a CPU's at most."""
    positions = torch.arange(POSITIONS)
    there = KeyedDraws(1, "checked", fused=fused).normal("normals", 7, positions.to(device), (3, 5)).cpu()
    return float((there - KeyedDraws(1, "checked").normal("normals", 7, positions, (3, 5))).abs().max())


def waits(way: Way) -> float:
    """0 where a step waits for nothing that the GPU computes. Raises RuntimeError, torch's own, where it does."""
    steps = Steps.of(stage_of(), way, 8)
    for _ in range(3):  # what is compiled, chosen and allocated first may wait
        steps.take()
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            steps.take()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return 0.0


def changed_by_no_number(way: Way) -> float:
    """How many tensors of a training's state a step changes whose gradient norm is not finite."""
    steps = Steps.of(stage_of(), way, 8)
    steps.take()
    before = _tensors(steps)
    broken = replace(steps.batch, images=torch.full_like(steps.batch.images, torch.nan))
    replace(steps, batch=broken).take()
    return _unlike(before, _tensors(steps))


def lost_on_the_way(way: Way) -> float:
    """How many tensors of a training's state are others after a checkpoint was read on a CPU, written and read here."""
    steps = Steps.of(stage_of(), way, 8)
    for _ in range(3):
        steps.take()
    before, spec = _tensors(steps), steps.stage.spec
    elsewhere, again = (TrainState.start(steps.stage, steps.training, 1, device) for device in ("cpu", way.device))
    state = steps.state
    with tempfile.TemporaryDirectory(prefix="rayfall-") as folder:
        for number, reader in enumerate((elsewhere, again)):
            Checkpoint.of(spec, steps.training, 0, state).save(Path(folder) / str(number))
            load_state(Path(folder) / str(number), reader)
            state = reader
    return _unlike(before, _tensors(replace(steps, state=again)))


def _tensors(steps: Steps) -> dict[str, Tensor]:
    """All tensors of a training's state, copied."""
    files = Checkpoint.of(steps.stage.spec, steps.training, 0, steps.state).files
    return {f"{file}/{name}": tensor for file, tensors in files.items() for name, tensor in tensors.items()}


def _unlike(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys(), "they are states of the same training"
    return float(sum(not torch.equal(tensor, other[name]) for name, tensor in one.items()))
