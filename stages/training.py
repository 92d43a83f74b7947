"""One training step: the step that production runs is the step that is benchmarked and tested."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.averages import average_decay, gamma_of
from stages.randomness import KeyedDraws
from stages.specs import TrainingSpec, ema_decay, learning_rate_at
from stages.stage import Net, Stage


@dataclass
class TrainState:
    """Everything that changes while a stage trains. ``step`` counts finished optimizer steps.

    ``averages`` are the power-function averages that ``TrainingSpec.averages`` asks for: parameter name -> tensor
    by relative width (``stages.averages``); empty without.
    """

    net: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    averages: dict[float, dict[str, Tensor]]
    step: int = 0

    @classmethod
    def start(cls, stage: Stage, training: TrainingSpec, seed: int, device: torch.device | str = "cpu") -> TrainState:
        """State before the first step; a function of the specs and ``seed``."""
        net = stage.build_net(seed).to(device)
        ema = copy.deepcopy(net).requires_grad_(False).eval()
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=True,
        )
        widths = () if training.averages is None else training.averages.widths
        averages = {
            width: {name: parameter.detach().clone() for name, parameter in net.named_parameters()} for width in widths
        }
        return cls(net, ema, optimizer, averages)


@dataclass(frozen=True)
class StepReport:
    """What a step measured, still on the device: reading it is the caller's choice of when to wait."""

    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float


@torch.no_grad()
def update_average(average: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    """``average <- decay average + (1 - decay) weights``, in place, tensor by tensor."""
    torch._foreach_lerp_(list(average), list(weights), 1.0 - decay)


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch."""

    images: Tensor  # (B, C, H, W) float in [-1, 1]
    labels: Tensor  # (B,) int64
    positions: Tensor  # (B,) int64: places in the global batch


@contextmanager
def keyed_dropout(net: nn.Module, draws: KeyedDraws, step: int, positions: Tensor) -> Iterator[None]:
    """Dropout masks as a function of the step and of the first of ``positions`` (B,); torch's generators are put back.

    So a step that is run again, by whichever rank, drops the same; but masks are torch's own draws, over a whole slice
    at once, so (unlike every other draw) they depend on how the global batch is cut into slices.
    """
    if not any(isinstance(module, nn.Dropout) and module.p > 0.0 for module in net.modules()):
        yield
        return
    words = draws.words("dropout", step, positions[:1].cpu(), 2)
    with torch.random.fork_rng(devices=[positions.device] if positions.is_cuda else []):
        torch.manual_seed(int(words[0, 0]) << 31 ^ int(words[0, 1]))
        yield


def train_step(
    stage: Stage, state: TrainState, batch: Batch, *, model: Net | None = None, training: TrainingSpec, seed: int
) -> StepReport:
    """Advance ``state`` by one optimizer step on this rank's slice of the global batch.

    ``model`` is the net as it is called (a DistributedDataParallel wrapper, a compiled net); gradients end up
    in ``state.net``. Every draw is keyed by (seed, stage, step, position), so the result does not depend on
    which rank holds which slice (with dropout: on the slices alone, see ``keyed_dropout``).
    """
    draws = KeyedDraws(seed, stage.spec.name)
    model = state.net if model is None else model
    rate = learning_rate_at(training, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    autocast = torch.autocast(batch.images.device.type, torch.bfloat16, enabled=training.precision == "bf16")
    with autocast, keyed_dropout(state.net, draws, state.step, batch.positions):
        losses = stage.loss(model, batch.images, batch.labels, draws, state.step, batch.positions, training.batch_size)
    loss = losses.mean()
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.net.parameters(), training.clip)
    state.optimizer.step()
    update_average(state.ema.parameters(), state.net.parameters(), ema_decay(training.ema, state.step))
    state.step += 1
    for width, average in state.averages.items():
        update_average(average.values(), state.net.parameters(), average_decay(gamma_of(width), state.step))
    return StepReport(loss.detach(), norm.detach(), rate)
