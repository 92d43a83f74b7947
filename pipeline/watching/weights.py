"""Averaged weights that a training run sets aside to be scored while it goes on: commits of their own in its log.

They are in nobody's way: a run sets aside the average alone, keeps the newest few, waits for nobody, and resumes from
its checkpoints as if they were not there. Who scores them finds them in the log, or finds that they are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.commits import CommitLog, Entry
from pipeline.results import Committed

if TYPE_CHECKING:
    from pipeline.writing import Write
    from stages.specs import StageSpec, TrainingSpec
    from stages.training import TrainState

KEPT = 2  # of those set aside; older ones are deleted, scored or not
WATCHED = "watched"  # the step of such a commit, in its entry


@dataclass(frozen=True)
class Weights:
    """Weights to sample from (``stages.checkpoints.load_trained``) as the log names them; its files may be gone."""

    step: int
    commits: CommitLog
    entry: Entry

    @property
    def created(self) -> float:
        """Unix time."""
        return self.entry.created

    @property
    def place(self) -> Committed:
        """Where they are."""
        return Committed(self.commits, self.entry)

    @property
    def there(self) -> bool:
        return self.commits.is_there(self.entry)


@dataclass(frozen=True)
class WatchedWeights:
    """The weights in the log of one run that are to be scored: at every ``every`` steps, and at all ``steps`` named.

    Of the first the newest few stay, of the second all: somebody waits for each of them.
    """

    commits: CommitLog
    every: int | None
    steps: tuple[int, ...] = ()

    def are_due(self, step: int, last: int) -> bool:
        """Whether the average of ``step`` is to be set aside; that of the ``last`` is not: it has a checkpoint."""
        regular = self.every is not None and step % self.every == 0
        return (regular or step in self.steps) and step < last

    def copied(self, state: TrainState, stage: StageSpec, training: TrainingSpec, seed: int) -> Write:
        """Copy the average of ``state``; the answer sets it aside, and raises OwnershipLost."""
        from stages.checkpoints import Checkpoint

        step, average = state.step, Checkpoint.of_average(stage, training, seed, state)

        def write() -> Entry:
            with self.commits.filling(f"{WATCHED}-{step:08d}") as (name, folder):
                average.save(folder)
            entry = self.commits.commit(name, {WATCHED: step, "kept": self._place(step)})
            self.commits.prune()
            return entry

        return write

    def _place(self, step: int) -> str:
        """Of those kept under one name the newest stays, so as many stay as there are names."""
        if self.every is None or step in self.steps:
            return f"{WATCHED} step {step}"
        return f"{WATCHED} {step // self.every % KEPT}"

    def set_aside(self, step: int) -> Weights | None:
        """Those that were set aside at ``step``, if they are there."""
        found = (weights for weights, aside in self._all(step) if aside and weights.step == step and weights.there)
        return next(found, None)

    def to_score(self, last: int) -> list[Weights]:
        """All that were set aside until the step ``last``, and the checkpoint of that step; oldest first."""
        return [found for found, aside in self._all(last) if aside or found.step == last]

    def newest(self, last: int) -> Weights | None:
        """Those of the highest step until ``last`` that are there, checkpoints among them."""
        there = [found for found, _ in self._all(last) if found.there]
        return max(there, key=lambda found: found.step, default=None)

    def _all(self, last: int) -> list[tuple[Weights, bool]]:
        """The newest of every step until ``last``, oldest first, and whether it was set aside."""
        newest: dict[tuple[int, bool], Weights] = {}
        for entry in self.commits.entries():
            aside = WATCHED in entry.info
            step = entry.info.get(WATCHED, entry.info.get("step"))
            if step is not None and step <= last:
                newest[step, aside] = Weights(step, self.commits, entry)
        return sorted(((found, aside) for (_, aside), found in newest.items()), key=lambda pair: pair[0].created)
