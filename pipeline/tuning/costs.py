"""What trials that train spend, and whether a search may begin another. Figures only: nothing is started or stopped."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.commits import CommitLog
from pipeline.experiment_spec import ResourcesSpec
from pipeline.search.spec import BudgetSpec
from pipeline.storage import LocalStorage
from pipeline.tuning.log import TrialEntry

WRITE_SECONDS = 5.0  # of the clock that a killed driver loses at most
PARTS = ("start_seconds", "training_seconds", "look_seconds", "scoring_seconds", "waiting_seconds")


def trained_seconds(storage: LocalStorage, run: str) -> float:
    """Seconds that the training run with the commit log ``run`` has been trained, over all attempts; 0 for none."""
    entries = CommitLog(storage, run, owner="reader", clock=time.time).entries()
    seconds = [float(entry.info["seconds"]) for entry in entries if "step" in entry.info]
    return max(seconds, default=0.0)


def start_seconds(storage: LocalStorage, run: str, *, since: float) -> float | None:
    """What a training asked for at the unix time ``since`` took until its first step; None where it committed none."""
    entries = CommitLog(storage, run, owner="reader", clock=time.time).entries()
    told = [entry.info.get("start_seconds") for entry in entries if "step" in entry.info and entry.created >= since]
    return next((float(seconds) for seconds in told if seconds is not None), None)


def hours_of(seconds: float, resources: ResourcesSpec) -> float:
    """Hours of a GPU behind ``seconds`` of training: x workers x their share of a GPU; of a CPU where it is none."""
    return seconds * resources.most_workers * (resources.gpus_per_worker or 1.0) / 3600.0


def time_use(points: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where the time of trials that train went, in seconds summed over them (trials at once count each).

    ``start_seconds`` (processes, libraries, data: until the first step), ``training_seconds``, ``look_seconds`` (of
    pruning; beside the training, so in no sum), ``scoring_seconds``, ``waiting_seconds`` (for another trial with the
    same training), ``other_seconds``, ``seconds`` (all of it), ``busy_share`` (training and scoring of all; None where
    nothing ran), ``trained`` (trials that trained), ``start_each`` (the mean start of those; None without) and
    ``start_most``.
    """
    points = list(points)
    sums = {part: sum(point.get(part) or 0.0 for point in points) for part in PARTS}
    total = sum(point["seconds"] for point in points)
    counted = sum(seconds for part, seconds in sums.items() if part != "look_seconds")
    starts = [point["start_seconds"] for point in points if point.get("start_seconds") is not None]
    busy = sums["training_seconds"] + sums["scoring_seconds"]
    return {
        **sums,
        "other_seconds": max(0.0, total - counted),
        "seconds": total,
        "busy_share": min(1.0, busy / total) if total > 0 else None,
        "trained": len(starts),
        "start_each": sum(starts) / len(starts) if starts else None,
        "start_most": max(starts, default=None),
    }


@dataclass
class Clock:
    """Hours by the clock that a search has taken, over all commands: each command's in a file of its own."""

    storage: LocalStorage
    prefix: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.monotonic)
    written: float = -WRITE_SECONDS

    def tick(self) -> None:
        """Note the time that has passed; cheap enough to call all the time."""
        passed = time.monotonic() - self.started
        if passed - self.written >= WRITE_SECONDS:
            self.written = passed
            self.storage.put(f"{self.prefix}/clocks/{self.name}.json", json.dumps(passed).encode())

    def hours(self) -> float:
        others = [name for name in self.storage.list(f"{self.prefix}/clocks") if name != f"{self.name}.json"]
        before = sum(json.loads(self.storage.read(f"{self.prefix}/clocks/{name}")) for name in others)
        return float(before + time.monotonic() - self.started) / 3600.0


def is_spent(budget: BudgetSpec, trials: Iterable[TrialEntry], clock: Clock) -> bool:
    """Whether no further trial may begin. GPU hours are those of the trials that ended."""
    spent = sum(entry.point.get("cost_hours", 0.0) for entry in trials if entry.point is not None)
    if budget.gpu_hours is not None and spent >= budget.gpu_hours:
        return True
    return budget.hours is not None and clock.hours() >= budget.hours
