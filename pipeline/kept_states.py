"""What a training commits of its state: checkpoints to resume from, and averages that are wanted later.

Each of them is copied while the training stands still, and written beside it (``pipeline.writing``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.commits import CommitLog, Entry
from pipeline.preemption import CommitTimes
from pipeline.snapshots import Snapshots
from pipeline.watching.weights import WatchedWeights
from pipeline.writing import Write
from stages.checkpoints import Checkpoint
from stages.specs import StageSpec, TrainingSpec
from stages.training import TrainState


class KeptStates:
    """The commits of one training; ``committed`` is the entry of the newest checkpoint that is written."""

    def __init__(
        self, commits: CommitLog, stage: StageSpec, training: TrainingSpec, seed: int, watched: WatchedWeights
    ) -> None:
        self.commits, self.watched = commits, watched
        self.snapshots = Snapshots.of(commits, training)
        self.committed: Entry | None = None
        self.stage, self.training, self.seed = stage, training, seed

    def averages_due(self, state: TrainState) -> list[Callable[[], Write]]:
        """What copies the averages of this step that are wanted later."""
        due = list[Callable[[], Write]]()
        if self.snapshots.are_due(state.step):
            due.append(partial(self.snapshots.copied, state))
        if self.watched.are_due(state.step, self.training.steps):
            due.append(partial(self.watched.copied, state, self.stage, self.training, self.seed))
        return due

    def checkpoint(
        self, state: TrainState, history: Sequence[Mapping[str, float]], info: Mapping[str, Any], times: CommitTimes
    ) -> Write:
        """Copy the ``state``; the answer commits it, and raises OwnershipLost for a stale owner."""
        checkpoint = Checkpoint.of(self.stage, self.training, self.seed, state)
        lines = json.dumps(history)
        info = {**info, "step": state.step, "final": state.step == self.training.steps}

        def write() -> Entry:
            with times.writing():
                self.committed = self.commit(checkpoint, lines, info)
            return self.committed

        return write

    def commit(self, checkpoint: Checkpoint, history: str, info: Mapping[str, Any]) -> Entry:
        """Write a ``checkpoint`` and publish it as the next entry of the log."""
        with self.commits.filling(f"step-{info['step']:08d}") as (name, folder):
            checkpoint.save(folder)
            (folder / "history.json").write_text(history)
        entry = self.commits.commit(name, info)
        self.commits.prune()
        return entry
