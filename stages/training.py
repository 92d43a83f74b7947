"""One training step: the step that production runs is the step that is benchmarked and tested."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.averages import average_decay, gamma_of
from stages.compiling import is_compiled, lends_gradients
from stages.optimizers import AdamW
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
        optimizer = AdamW(
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

    loss: Tensor  # (): this rank's share of the mean over the global batch; the sum over ranks is that mean
    gradient_norm: Tensor
    learning_rate: float


def soundness(gradient_norm: Tensor) -> Tensor:
    """1 where a step with this gradient norm may change the weights, 0 where the norm is not finite: () float32."""
    return gradient_norm.isfinite().to(torch.float32)


@torch.no_grad()
def update_average(average: Iterable[Tensor], weights: Iterable[Tensor], decay: float, sound: Tensor) -> None:
    """``average <- decay average + (1 - decay) weights``, in place.

    Nothing changes where ``sound`` () is 0; where it is 1 the bits are those of a number in its place.
    """
    average, weights, share = list(average), list(weights), sound * (1.0 - decay)
    if share.is_cuda and decay >= 0.5:  # below, in the first steps, rounding must not leave anything of what was
        approach(average, weights, share)
    else:
        torch._foreach_lerp_(average, weights, [share] * len(average))


def approach(average: list[Tensor], weights: list[Tensor], share: Tensor) -> None:
    """``average <- average + share (weights - average)``, in place, by a ``share`` () of the device.

    For a share of the device torch launches an interpolation on a GPU once per tensor, and these for many at once.
    """
    gap = torch._foreach_sub(weights, average)
    torch._foreach_mul_(gap, share)
    torch._foreach_add_(average, gap)


@dataclass(frozen=True)
class Batch:
    """One rank's slice of a global batch."""

    images: Tensor  # (B, C, H, W) float in [-1, 1]
    labels: Tensor  # (B,) int64
    positions: Tensor  # (B,) int64, ascending: places in the global batch. On the CPU, see ``positions_for``.

    def pieces(self, micro_batch: int | None) -> list[Batch]:
        """Cut at the multiples of ``micro_batch`` in the global batch, wherever this slice begins; None: one piece."""
        if micro_batch is None:
            return [self]
        _, counts = torch.unique_consecutive(self.positions.cpu() // micro_batch, return_counts=True)
        parts = [tensor.split(counts.tolist()) for tensor in (self.images, self.labels, self.positions)]
        return [Batch(*piece) for piece in zip(*parts, strict=True)]


def positions_for(device: torch.device | str, positions: Tensor) -> Tensor:
    """``positions`` (B,) of the CPU as steps on ``device`` want them: there they decide what the host does, and are
    copied to a GPU from pinned memory, so that no step waits for it."""
    return positions.pin_memory() if torch.device(device).type == "cuda" else positions


@contextmanager
def keyed_dropout(
    net: nn.Module, draws: KeyedDraws, step: int, positions: Tensor, device: torch.device
) -> Iterator[None]:
    """Dropout masks on ``device`` as a function of the step and the first of ``positions`` (B,).

    Masks are torch's own draws over a whole piece at once, so (unlike every other draw) they depend on how the global
    batch is cut: on step and micro-batch alone where ``TrainingSpec.micro_batch`` is set, whichever worker has it, and
    on the workers' slices where it is not. torch's generators are put back.
    """
    if not any(isinstance(module, nn.Dropout) and module.p > 0.0 for module in net.modules()):
        yield
        return
    words = draws.words("dropout", step, positions[:1].cpu(), 2)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(words[0, 0]) << 31 ^ int(words[0, 1]))
        yield


def gradient_exchange(model: Any, *, now: bool) -> AbstractContextManager[Any]:
    """Whether a backward pass of ``model`` ends with the exchange among ranks; a net on its own has none."""
    return nullcontext() if now or not hasattr(model, "no_sync") else model.no_sync()


@torch.no_grad()
def keep_gradients(net: nn.Module) -> None:
    """Move the gradients of ``net`` into memory of their own, in few launches."""
    parameters = [parameter for parameter in net.parameters() if parameter.grad is not None]
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    kept = [torch.empty_like(gradient) for gradient in found]
    if kept:
        torch._foreach_copy_(kept, found)
    for parameter, gradient in zip(parameters, kept, strict=True):
        parameter.grad = gradient


def accumulate_gradients(
    stage: Stage, state: TrainState, batch: Batch, *, model: Net | None = None, training: TrainingSpec, seed: int
) -> Tensor:
    """Add to the gradients in ``state.net`` those of the mean loss over the global batch, as far as it is ``batch``.

    Returns this share of the mean loss, (). Both are sums over examples divided by ``training.batch_size``: over ranks
    they are to be summed, and slices of any lengths then weigh what they should. ``model`` exchanges gradients among
    ranks, if it does, in the last of the micro-batches, and must sum them (averaging would weigh ranks alike).
    """
    device, model = batch.images.device, state.net if model is None else model
    draws = KeyedDraws(seed, stage.spec.name, fused=is_compiled(model))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16")
    pieces, shares = batch.pieces(training.micro_batch), []
    for piece in pieces:
        with gradient_exchange(model, now=piece is pieces[-1]):
            with autocast, keyed_dropout(state.net, draws, state.step, piece.positions, device):
                losses = stage.loss(
                    model,
                    piece.images,
                    piece.labels,
                    draws,
                    state.step,
                    piece.positions.to(device, non_blocking=True),
                    training.batch_size,
                )
            share = losses.sum() / training.batch_size
            share.backward()
        if piece is pieces[0] and len(pieces) > 1 and lends_gradients(model):
            keep_gradients(state.net)  # the others are added to them, in place
        shares.append(share.detach())
    return torch.stack(shares).sum()


def train_step(
    stage: Stage, state: TrainState, batch: Batch, *, model: Net | None = None, training: TrainingSpec, seed: int
) -> StepReport:
    """Advance ``state`` by one optimizer step on this rank's slice of the global batch.

    ``model`` is the net as it is called (a DistributedDataParallel wrapper that sums gradients, a compiled net);
    gradients end up in ``state.net``. Every draw is keyed by (seed, stage, step, position), so the result does not
    depend on which rank holds which slice (with dropout: where ``training.micro_batch`` is set, see ``keyed_dropout``).
    A step whose gradient norm is not finite is counted and changes nothing else. That is decided on the device, without
    waiting for it, and on all ranks alike, as they have the same gradients; to stop then is the caller's part.
    """
    rate = learning_rate_at(training, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    loss = accumulate_gradients(stage, state, batch, model=model, training=training, seed=seed)
    norm = nn.utils.clip_grad_norm_(state.net.parameters(), training.clip)
    sound = soundness(norm)
    # What torch's GradScaler tells a fused optimizer: where it is 1, weights, moments and step count stay.
    state.optimizer.found_inf = 1.0 - sound  # type: ignore[attr-defined]
    state.optimizer.step()
    update_average(state.ema.parameters(), state.net.parameters(), ema_decay(training.ema, state.step), sound)
    state.step += 1
    for width, average in state.averages.items():
        update_average(average.values(), state.net.parameters(), average_decay(gamma_of(width), state.step), sound)
    return StepReport(loss, norm.detach(), rate)
