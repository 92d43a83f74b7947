"""Training steps made in two ways, which must come out alike but for rounding: here and there, plain and compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.compilers import Asked
from stages.compiling import compiled
from stages.recomputing import recompute_from
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import Batch, TrainState, positions_for, train_step

ROUNDING = 1e-3  # of losses and gradient norms in float32, as shares
ROUNDING_BF16 = 0.05
STEPS = 6  # more, and a rounding in the first decides where the last goes
NETS: Mapping[str, Mapping[str, Any]] = {
    "unet": {"kind": "unet", "channels": 32, "multipliers": [1, 2], "blocks": 1, "attention": [16], "head_width": 32},
    "adm": {"kind": "adm", "channels": 32, "multipliers": [1, 2], "blocks": 1, "attention": [16], "head_width": 32},
    "uvit": {"kind": "uvit", "channels": 32, "multipliers": [1, 2], "blocks": 1, "depth": 2, "head_width": 32},
}
SUPER_RESOLUTION = {
    "low_res_size": 16,
    "low_res_schedule": {"kind": "cosine"},
    "augmentation": {"noise": {"levels": [0.0, 0.4]}},
}


def stage_of(kind: str = "unet", *, dropout: float = 0.0, super_resolution: bool = False) -> Stage:
    """A small stage at 32 px with a net of this kind."""
    spec = {"name": "checked", "size": 32, "classes": 10, "net": {**NETS[kind], "dropout": dropout}}
    return Stage.build(StageSpec.model_validate(spec | (SUPER_RESOLUTION if super_resolution else {})))


@dataclass(frozen=True)
class Way:
    """How steps are made."""

    device: str
    compiled: Asked = False
    precision: str = "f32"
    micro_batch: int | None = None
    recompute: int | None = None  # px, see ``recompute_from``


@dataclass(frozen=True)
class Steps:
    """A training that is about to begin, always on the same images."""

    stage: Stage
    training: TrainingSpec
    state: TrainState
    batch: Batch
    model: Any  # the net as it is called

    @classmethod
    def of(cls, stage: Stage, way: Way, batch_size: int) -> Steps:
        """Raises CannotCompile where the net cannot be called in this way."""
        asked = {"batch_size": batch_size, "micro_batch": way.micro_batch, "precision": way.precision}
        fixed = {"steps": 100, "learning_rate": 1e-3, "warmup": 0, "averages": {"every": 100}}
        training = TrainingSpec.model_validate({**fixed, **asked})
        state = TrainState.start(stage, training, 0, way.device)
        recompute_from(state.net, way.recompute)
        model = compiled(state.net, graphs=way.compiled == "graphs", or_error=True) if way.compiled else state.net
        return cls(stage, training, state, images_of(stage, batch_size, way.device), model)

    def take(self) -> tuple[Tensor, Tensor]:
        """One step: its loss () and gradient norm (), still on the device."""
        seen = train_step(self.stage, self.state, self.batch, model=self.model, training=self.training, seed=0)
        return seen.loss, seen.gradient_norm

    def told(self) -> Iterator[float]:
        """Loss and gradient norm, in turns, of the next ``STEPS``."""
        for _ in range(STEPS):
            loss, norm = self.take()
            yield from (float(loss), float(norm))


def images_of(stage: Stage, count: int, device: str) -> Batch:
    """Noise in [-1, 1] with labels, the same at every call."""
    size, places = stage.spec.size, torch.arange(count)
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = places % stage.spec.classes
    return Batch(images.to(device), labels.to(device), positions_for(device, places))


def apart(stage: Stage, one: Way, other: Way, batch_size: int = 8) -> float:
    """By how much losses and gradient norms of ``STEPS`` steps made in two ways differ at most, as a share of
    ``other``'s; not a number where one of them is none."""
    pairs = zip(*(Steps.of(stage, way, batch_size).told() for way in (one, other)), strict=True)
    return worst([abs(mine - theirs) / theirs for mine, theirs in pairs])


def worst(differences: Sequence[float]) -> float:
    """The largest, and no number where one is none: Python's ``max`` passes over those."""
    return math.nan if any(math.isnan(one) for one in differences) else max(differences)
