"""Ray Train: one job per stage. Stages need nothing of each other, so their jobs run at the same time.

Three floors: ``stages.training.train_step`` is the step; ``train_loop`` runs in every worker and is
``pipeline.stage_run.StageRun`` under Ray; ``train_stage`` is the graph node that drives it. A worker that starts reads
our commit log, never Ray's snapshot, and Ray is told of each commit by a pointer. Training is elastic where a range of
workers is asked for: when a node is lost, or one comes, the workers start again in the number that there is room for,
from the newest commit. Averages stored on the way are commits beside the checkpoints (``pipeline.snapshots``).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.commits import CommitLog, Entry
from pipeline.dag import Task
from pipeline.snapshots import Snapshots
from pipeline.stage_run import LoopSettings, StageRun
from stages.specs import TrainingSpec

log = logging.getLogger(__name__)

FAILURES = 3  # of workers, that Ray answers by itself
# How long elastic workers wait for their places (seconds). Only places that Ray believes to be there are asked for, so
# a long wait is for a node that is gone. Ray takes up to half a minute to find that out; its own limit of a minute
# would come on top of it.
START_SECONDS = 10.0


def train_stage(task: Task) -> dict[str, Any]:
    """Graph node: train one stage to its number of steps and leave its averaged weights as the result.

    Beside them the averages stored on the way, if any, from which an EMA of another length is rebuilt.
    """
    context = task.context
    prefix = context["run"]
    steps = task.config["training"]["steps"]
    commits = CommitLog(task.storage, prefix, owner="reader", clock=time.time)
    snapshots = Snapshots.of(commits, TrainingSpec.model_validate(task.config["training"]))
    found = snapshots.latest_checkpoint(lambda step: step == steps)
    if found is None:
        settings = LoopSettings(
            stage=task.config["stage"],
            training=task.config["training"],
            seed=task.config["seed"],
            data=str(task.inputs["data"]),
            shuffle=task.config["shuffle"],
            storage=str(task.storage.root),
            run=prefix,
            threads=context["threads"],
            loader_processes=context["loader_processes"],
            cache=context["cache"],
            cache_gb=context["cache_gb"],
            cache_users=context["cache_users"],
            log_every=context["log_every"],
            checkpoint_seconds=context["checkpoint_seconds"],
            progress=None if task.progress.path is None else str(task.progress.path),
            tracking_uri=context.get("tracking_uri"),
            tracking_run=context.get("tracking_run"),
            watch_every=context.get("watch_every"),
        )
        fit(settings, context, commits)
        found = snapshots.latest_checkpoint(lambda step: step == steps)
        assert found is not None, f"{prefix}: training ended without a commit at step {steps}"
    entry, folder = found
    for name in ("spec.json", "ema.safetensors", "history.json"):
        os.link(folder / name, task.out / name)
    snapshots.link(folder, steps, task.out)
    return {key: entry.info[key] for key in ("step", "seconds", "loss", "parameters")}


def fit(settings: LoopSettings, context: Mapping[str, Any], commits: CommitLog) -> None:
    """Run ``train_loop`` under Ray Train. Raises what Ray raises when its retries are used up, and the UserError of a
    worker at once: of a shard that was altered, say.

    Elastic workers are on nodes that come and go, more often than any number of retries foresees: they are given up
    only when an attempt came no further than the one before.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from pipeline.refusals import EndOnRefusal, refusal_behind

    elastic = not isinstance(context["workers"], int)
    if elastic:
        # Ray hands it on from here to the process that starts the workers; there is no argument for it.
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))

    callbacks: list[Any] = [EndOnRefusal()]  # Ray's hints name the class of its first version

    def attempt() -> None:
        trainer = TorchTrainer(
            train_loop,
            train_loop_config=dict(vars(settings)),
            scaling_config=ScalingConfig(**scaling_of(context, settings.checkpoint_seconds)),
            run_config=RunConfig(
                name=f"{settings.run.removeprefix('runs/')}-{len(commits.entries())}",
                storage_path=str(Path(settings.storage) / "ray-train"),
                failure_config=FailureConfig(max_failures=FAILURES),
                callbacks=callbacks,
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            if (refusal := refusal_behind(error)) is not None:
                raise refusal from error
            raise

    def reached() -> int:
        return max((entry.info.get("step", 0) for entry in commits.entries()), default=0)

    if elastic:
        while_it_advances(attempt, reached, TrainingFailedError)
    else:
        attempt()


def while_it_advances(attempt: Callable[[], None], reached: Callable[[], int], failure: type[Exception]) -> None:
    """Call ``attempt`` until it ends well. Raises its ``failure`` where ``reached()`` is no further than before it."""
    while True:
        before = reached()
        try:
            return attempt()
        except failure as error:
            if reached() <= before:
                raise
            log.warning("training goes on from step %d after a failure: %s", reached(), error)


def scaling_of(context: Mapping[str, Any], checkpoint_seconds: float) -> dict[str, Any]:
    """Arguments of Ray's ScalingConfig; ``context["workers"]`` is a number, or a mapping of min and max.

    A change of the number of workers loses what was done since the last commit, so it is considered only after twice
    the time between commits: each group commits at least once, however often nodes come and go.
    """
    workers, gpus = context["workers"], context.get("gpus_per_worker", 0)
    return {
        "num_workers": workers if isinstance(workers, int) else (workers["min"], workers["max"]),
        "elastic_resize_monitor_interval_s": 2 * checkpoint_seconds,
        "use_gpu": bool(gpus),
        "resources_per_worker": {"CPU": context["cpus_per_worker"]} | ({"GPU": gpus} if gpus else {}),
    }


def train_loop(config: dict[str, Any]) -> None:
    """What every worker runs: resume from the log, step, commit, until the asked number of steps is reached."""
    import ray.train
    import ray.train.torch

    settings = LoopSettings(**config)
    torch.set_num_threads(settings.threads)
    context = ray.train.get_context()
    run = StageRun(
        settings,
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
        local_world=context.get_local_world_size(),
    )
    run.resume()
    run.train(report=_report_pointer)


def _report_pointer(entry: Entry | None, metrics: dict[str, float]) -> None:
    """Tell Ray of a commit: a checkpoint that holds nothing but the name of ours."""
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        if entry is not None:
            (Path(folder) / "pointer.json").write_text(json.dumps({"folder": entry.folder, "number": entry.number}))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
