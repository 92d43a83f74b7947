"""The steps since somebody looked at them: what they measured stays on the device until then, so no step is waited for.

The look is where metrics are logged, and before anything is committed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pipeline.ranks import Ranks
from stages.training import StepReport


class Unsound(NamedTuple):
    """The first step, from 1, whose loss or gradient norm is not finite, and those before it since the last look."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    before: list[tuple[int, float, float]]  # step, loss, gradient norm


class StepWindow:
    """What the steps since the last look measured; losses are summed over the ``ranks``."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.seen: list[StepReport] = []

    def __len__(self) -> int:
        return len(self.seen)

    def add(self, seen: StepReport) -> None:
        self.seen.append(seen)

    def mean_loss(self) -> float:
        """The mean loss of the steps."""
        return float(self.ranks.summed(torch.stack([seen.loss for seen in self.seen]).mean()))

    def gradients_are_finite(self) -> bool:
        """Whether all gradients were; ranks answer alike without asking each other, as they have the same gradients."""
        return bool(torch.stack([seen.gradient_norm for seen in self.seen]).isfinite().all())

    def first_unsound(self, last: int) -> Unsound | None:
        """The first of the steps until ``last`` that is not finite, None if all are. All ranks ask at the same time."""
        losses = self.ranks.summed(torch.stack([seen.loss for seen in self.seen])).tolist()
        norms = torch.stack([seen.gradient_norm for seen in self.seen])
        sound = (torch.tensor(losses).isfinite() & norms.isfinite().cpu()).tolist()
        if all(sound):
            return None
        place, steps = sound.index(False), range(last - len(self.seen) + 1, last + 1)
        rows = list(zip(steps, losses, norms.tolist(), strict=True))
        return Unsound(*rows[place], self.seen[place].learning_rate, rows[:place])
