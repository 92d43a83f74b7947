"""What is left of a training step whose loss or gradient is not finite: one sentence, and a file to look into.

What the step did to weights is never committed, be it that it changed none (``stages.training.train_step``), be it that
training ends before the next commit. Which images it saw and with which draws follows from its number, so the file in
the store is enough to do it again: seed, step and keys, and how loss and gradient came there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.batches import StepBatches
from pipeline.errors import UserError
from pipeline.step_window import StepWindow, Unsound
from pipeline.storage import Storage

FOLDER = "failures"  # of the store, beside the tracebacks of commands
HISTORY = 200  # logged steps that are told
History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Inquest:
    """Into the steps of a run: what is trained (``what``, for a person), and from which batches."""

    storage: Storage
    run: str  # prefix of its commit log
    what: str
    seed: int
    batches: StepBatches

    def mean_loss(self, window: StepWindow, last: int, history: History) -> float:
        """The mean loss of the steps of ``window``, which end with ``last``; raises as ``require_sound``."""
        loss = window.mean_loss()
        if not (math.isfinite(loss) and window.gradients_are_finite()):
            self.require_sound(window, last, history)
        return loss

    def require_sound(self, window: StepWindow, last: int, history: History) -> None:
        """Raise FloatingPointError, and write down why, if a step of ``window`` was not finite. All workers do, and ask
        at the same time."""
        if (found := window.first_unsound(last)) is None:
            return
        if window.ranks.is_first:
            raise FloatingPointError(sentence_of(self.what, found, self._written(found, history)))
        raise FloatingPointError(sentence_of(self.what, found, "the first worker names its images"))

    def _written(self, unsound: Unsound, history: History) -> str:
        """Write down what is known of a step; where that is."""
        told = {
            "stage": self.what,
            "seed": self.seed,
            "step": unsound.step,
            "loss": unsound.loss,
            "gradient_norm": unsound.gradient_norm,
            "learning_rate": unsound.learning_rate,
            "steps_before": unsound.before,
            "history": history[-HISTORY:],
            **batch_of(self.batches, unsound.step),
        }
        key = f"{FOLDER}/{self.run.replace('/', '-')}-step-{unsound.step:08d}.json"
        try:
            self.storage.put(key, (json.dumps(_plain(told), indent=1, allow_nan=False) + "\n").encode())
        except (UserError, OSError) as error:  # of a bucket, of a folder
            return f"its images could not be written down: {getattr(error, 'strerror', None) or error}"
        return f"{key} in the store names its images"


def sentence_of(what: str, unsound: Unsound, kept: str) -> str:
    """What a person reads; ``kept`` says where the rest is."""
    return (
        f"{what}: the loss is {unsound.loss:g} at step {unsound.step}, with a gradient norm of "
        f"{unsound.gradient_norm:g}; no weights from there on are kept, and {kept}"
    )


def batch_of(batches: StepBatches, step: int) -> dict[str, Any]:
    """The examples of the global batch of ``step`` (from 1), in its order: number in the split, shard, key.

    Shards and keys are left out, with the reason, where they cannot be read any more.
    """
    examples = batches.order.of_step(step - 1, batches.batch_size)
    try:
        names = batches.examples.names(examples)
    except (UserError, OSError) as error:
        return {"examples": examples.tolist(), "unnamed": str(error)}
    found = zip(examples.tolist(), names, strict=True)
    return {"examples": [{"example": number, "shard": shard, "key": key} for number, (shard, key) in found]}


def _plain(value: Any) -> Any:
    """``value`` as strict JSON can say it: what is not finite becomes text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
