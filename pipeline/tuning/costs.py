"""What trials that train spend, and on what. Figures only: nothing is started or stopped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.commits import KEEP, CommitLog, Entry
from pipeline.experiment_spec import ResourcesSpec
from pipeline.storage import Storage
from pipeline.tuning.log import TrialEntry, TrialLog

PARTS = ("start_seconds", "training_seconds", "look_seconds", "scoring_seconds", "waiting_seconds")


def trained_seconds(storage: Storage, run: str) -> float:
    """Seconds of training that all commits of the run with the commit log ``run`` took, those trained anew among them:
    a run asked for fewer steps than it has may have lost the checkpoints on the way there. 0 for none."""
    found, before = 0.0, list[Entry]()
    last: float | None = None  # seconds of the checkpoint that the owner went on from
    for entry in CommitLog(storage, run, owner="reader", clock=time.time).entries():
        if entry.kind == "takeover":
            last = None
        elif "step" in entry.info:
            found += entry.info["seconds"] - (_resumed_seconds(before, entry) if last is None else last)
            last = entry.info["seconds"]
            before.append(entry)
    return found


def _resumed_seconds(before: Sequence[Entry], first: Entry) -> float:
    """Seconds of the checkpoint that the owner who committed ``first`` had gone on from: the newest that was kept."""
    kept = [entry for entry in before[:-KEEP] if entry.info.get("final")] + list(before[-KEEP:])
    below = [float(entry.info["seconds"]) for entry in kept if entry.info["step"] < first.info["step"]]
    return below[-1] if below else 0.0


def start_seconds(storage: Storage, run: str, *, since: float) -> float | None:
    """What a training asked for at the unix time ``since`` took until its first step; None where it committed none."""
    entries = CommitLog(storage, run, owner="reader", clock=time.time).entries()
    told = [entry.info.get("start_seconds") for entry in entries if "step" in entry.info and entry.created >= since]
    return next((float(seconds) for seconds in told if seconds is not None), None)


def hours_of(seconds: float, resources: ResourcesSpec) -> float:
    """Hours of a GPU behind ``seconds`` of training: x workers x their share of a GPU; of a CPU where it is none."""
    return seconds * resources.most_workers * (resources.gpus_per_worker or 1.0) / 3600.0


def scoring_hours(seconds: float, resources: ResourcesSpec) -> float:
    """Hours of a GPU, or of a CPU, behind ``seconds`` of drawing and scoring, in the trial's process or beside it."""
    gpus = resources.gpus_per_worker if in_place(resources) else resources.gpus_per_sampling_worker
    return seconds * (gpus or 1.0) / 3600.0


def cost_of(storage: Storage, entry: TrialEntry, resources: ResourcesSpec) -> float:
    """Hours of a GPU, or of a CPU, that a trial has spent so far: of training what its runs gained while it was at
    them, as far as that is committed, and its scores and looks."""
    if entry.point is not None:
        return float(entry.point["cost_hours"])
    gained = sum(trained_seconds(storage, run) - before for run, before in entry.trained.items())
    return hours_of(gained, resources) + entry.trained_hours + entry.scored_hours


def leave_trainings(log: TrialLog, key: str, resources: ResourcesSpec) -> None:
    """The trial ``key`` is at no training any more: note what those that it was at gained, and nothing that others
    train of them later."""
    for run, before in log.known(key).trained.items():
        log.leave(key, run, hours_of(trained_seconds(log.storage, run) - before, resources))


def in_place(resources: ResourcesSpec) -> bool:
    """Whether a trial trains in its own process: with one worker it needs no others, and starts in a second or two."""
    return resources.workers == 1


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
