"""Averages that a training run stores on the way: commits of their own beside its checkpoints, that no pruning takes.

A run keeps two power-function averages if ``training.averages`` says so, and stores them at every multiple of
``every`` steps; those of its last step are in its checkpoint. Where a run resumes it goes over the steps after its
checkpoint again and stores their averages anew: the newest of a step counts. So a result depends on its number of
steps, and not on where the run was stopped before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.commits import CommitLog, Entry
from pipeline.writing import Write
from stages.averages import stored_steps
from stages.checkpoints import AVERAGES, averages_of, averages_path, save_averages
from stages.specs import TrainingSpec
from stages.training import TrainState


@dataclass(frozen=True)
class Snapshots:
    """The stored averages in the log of one run; ``every`` None: there are none."""

    commits: CommitLog
    every: int | None

    @classmethod
    def of(cls, commits: CommitLog, training: TrainingSpec) -> Snapshots:
        return cls(commits, None if training.averages is None else training.averages.every)

    def are_due(self, step: int) -> bool:
        """Whether averages of ``step`` are to be stored."""
        return self.every is not None and step % self.every == 0

    def copied(self, state: TrainState) -> Write:
        """Copy the averages of ``state``; the answer commits them, and raises OwnershipLost."""
        step, averages = state.step, averages_of(state)

        def write() -> Entry:
            with self.commits.filling(f"averages-{step:08d}") as (name, folder):
                save_averages(folder / AVERAGES, averages)
            return self.commits.commit(name, {"averages": step, "kept": f"averages of step {step}"})

        return write

    def files(self, steps: Collection[int]) -> dict[int, Path]:
        """The whole ones of ``steps`` by step, on this machine."""
        files: dict[int, Path] = {}
        for entry, folder in self.commits.whole(
            lambda entry: entry.info.get("averages") in steps and entry.info["averages"] not in files
        ):
            files[entry.info["averages"]] = folder / AVERAGES
        return files

    def latest_checkpoint(
        self, accept: Callable[[int], bool], names: Collection[str] | None = None
    ) -> tuple[Entry, Path] | None:
        """The newest whole checkpoint of an accepted step that all averages to be stored until then go with, and a
        folder of this machine with its files, or those in ``names``."""
        every = self.every
        there = {entry.info["averages"] for entry in self.commits.sound(lambda entry: "averages" in entry.info)}

        def usable(entry: Entry) -> bool:
            step = entry.info.get("step")
            if step is None or not accept(step):
                return False
            return every is None or all(earlier in there for earlier in range(every, step + 1, every))

        return self.commits.latest_whole(usable, names)

    def link(self, checkpoint: Path, step: int, out: Path) -> None:
        """Link into the result ``out`` what an EMA length is rebuilt from at the ``checkpoint`` of ``step``."""
        if self.every is None:
            return
        steps = stored_steps(self.every, step)
        files = self.files(steps) | {step: checkpoint / AVERAGES}
        for earlier in steps:
            path = averages_path(out, earlier)
            path.parent.mkdir(exist_ok=True)
            os.link(files[earlier], path)
