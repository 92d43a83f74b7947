"""Training: one job per stage, of Ray Train where it has several workers. Stages need nothing of each other, so their
jobs run at the same time.

A single worker is the node's own process: nothing is started for it, and Ray runs the node again where it is lost.
Three floors: ``stages.training.train_step`` is the step; ``train_loop`` runs in every worker and is
``pipeline.stage_run.StageRun``; ``train_stage`` is the graph node that drives it. A worker that starts reads our commit
log, never Ray's snapshot, and Ray is told of each commit by a pointer. Training is elastic where a range of workers is
asked for: when a node is lost, or one comes, the workers start again in the number that there is room for, from the
newest commit; where the loss is announced, they commit first (``pipeline.preemption``). Averages stored on the way are
commits beside the checkpoints (``pipeline.snapshots``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.called_nets import forgotten_afterwards
from pipeline.claims import claimed
from pipeline.commits import CommitLog
from pipeline.dag import Task
from pipeline.preemption import announced_to
from pipeline.results import place_of
from pipeline.snapshots import Snapshots
from pipeline.stage_run import StageRun
from pipeline.train_workers import Worker, run_workers
from pipeline.worker_settings import LoopSettings, told_by
from stages.checkpoints import AVERAGES
from stages.processor import prepare_processor
from stages.specs import TrainingSpec

KEPT = ("spec.json", "ema.safetensors", "history.json")  # of the last checkpoint, in the result
NEEDED = (*KEPT, AVERAGES)


class TrainingStopped(RuntimeError):  # noqa: N818 - it states what happened
    """Training ended before its last step because somebody left the mark that it looks for; nothing is lost."""


def train_stage(task: Task) -> dict[str, Any]:
    """Graph node: train one stage to its number of steps and leave its averaged weights as the result.

    Beside them the averages stored on the way, if any, from which an EMA of another length is rebuilt. The summary's
    ``start_seconds`` are those from asking for the workers to the first step of the run that came to the end, by the
    clocks of two nodes where they are two; None for a run that made no step. Raises TrainingStopped where the mark
    ``context["stop"]`` ended it early.
    """
    context = task.context
    prefix = context["run"]
    steps = task.config["training"]["steps"]
    commits = CommitLog(task.storage, prefix, owner="reader", clock=time.time)
    snapshots = Snapshots.of(commits, TrainingSpec.model_validate(task.config["training"]))
    found = snapshots.latest_checkpoint(lambda step: step == steps, NEEDED)
    if found is None:
        settings = LoopSettings(
            **told_by(task, prefix),
            stage=task.config["stage"],
            training=task.config["training"],
            seed=task.config["seed"],
            data=place_of(task.inputs, "data"),
            tracking_run=context.get("tracking_run"),
            watch_every=context.get("watch_every"),
            watch_steps=tuple(context.get("watch_steps", ())),
            stop=context.get("stop"),
            recompute=context.get("recompute"),
            compile=context.get("compile", False),
        )
        with _owned(task):
            found = snapshots.latest_checkpoint(lambda step: step == steps, NEEDED)
            if found is None:  # unless somebody trained it while this process waited
                fit(settings, context, commits)
                found = snapshots.latest_checkpoint(lambda step: step == steps, NEEDED)
        if found is None and settings.stop is not None and task.storage.exists(settings.stop):
            raise TrainingStopped(f"{prefix} was called off")
        assert found is not None, f"{prefix}: training ended without a commit at step {steps}"
    entry, folder = found
    for name in KEPT:
        os.link(folder / name, task.out / name)
    snapshots.link(folder, steps, task.out)
    told = {key: entry.info[key] for key in ("step", "seconds", "loss", "parameters")}
    return {**told, "start_seconds": entry.info.get("start_seconds")}


def _owned(task: Task) -> AbstractContextManager[Any]:
    """No other process trains this run meanwhile: two experiments may share one. A trial of a search sees to it
    itself."""
    if task.context.get("claimed"):
        return nullcontext()
    return claimed(task.storage, Path(task.context["run"]).name)


def fit(settings: LoopSettings, context: Mapping[str, Any], commits: CommitLog) -> None:
    """Run ``train_loop`` in all workers; raises as ``run_workers`` does."""
    name, place = settings.run.removeprefix("runs/"), commits.storage.ray_address("ray-train")
    asked = {**vars(settings), "asked": time.time()}
    run_workers(train_loop, asked, context=context, commits=commits, name=name, place=place)


def train_loop(config: dict[str, Any], worker: Worker) -> None:
    """What every worker runs: resume from the log, step, commit, until the asked number of steps is reached."""
    settings = LoopSettings(**config)
    prepare_processor(settings.threads)
    run = StageRun(settings, rank=worker.rank, world=worker.world, device=worker.device, local_world=worker.local_world)
    with forgotten_afterwards(settings.compile):
        run.resume()
        run.train(report=worker.report, announced=announced_to(worker.world))
