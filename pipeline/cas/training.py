"""The graph node that trains and tests the classifier by Ray Train, on samples or, for the ceiling, on real images.

The same function does both: ``train`` is a sample set's result or the data node's own. Ray is told of no checkpoint:
workers that start again read our commit log (`pipeline.cas.run`), which lies in the task's scratch folder and is gone
once the result is committed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.cas.run import CasRun, CasSettings
from pipeline.cas.spec import CasSpec
from pipeline.commits import CommitLog, Entry
from pipeline.dag import Task
from pipeline.training import FAILURES, START_SECONDS, scaling_of, while_it_advances


def train_cas(task: Task) -> dict[str, Any]:
    """Graph node: the classification accuracy score of the images in ``train``, and the trained net.

    Inputs: ``train`` and ``data`` (real images to test on). Settings: ``cas`` (a CasSpec), ``size`` in px and
    ``shuffle``. Raises UserError where both inputs differ in their classes or the net does not suit the size.
    """
    run = str((task.scratch / "run").relative_to(task.storage.root))
    commits = CommitLog(task.storage, run, owner="reader", clock=time.time)
    found = commits.latest_whole(_is_final)
    if found is None:
        _fit(_settings(task, run), task, commits)
        found = commits.latest_whole(_is_final)
        assert found is not None, f"{run}: training ended without a final commit"
    entry, folder = found
    for name in ("net.safetensors", "history.json"):
        os.link(folder / name, task.out / name)
    spec = CasSpec.model_validate(task.config["cas"])
    return {
        **{key: entry.info[key] for key in ("cas_top1", "cas_top5", "images", "seconds")},
        "net": spec.net.words,
        "epochs": spec.epochs,
        "steps": entry.info["step"],
        "size": task.config["size"],
    }


def _is_final(entry: Entry) -> bool:
    return bool(entry.info.get("final"))


def _settings(task: Task, run: str) -> CasSettings:
    context = task.context
    return CasSettings(
        spec=dict(task.config["cas"]),
        size=task.config["size"],
        train=str(task.inputs["train"]),
        val=str(task.inputs["data"]),
        shuffle=dict(task.config["shuffle"]),
        storage=str(task.storage.root),
        run=run,
        threads=context["threads"],
        loader_processes=context["loader_processes"],
        cache=context["cache"],
        cache_gb=context["cache_gb"],
        cache_users=context["cache_users"],
        log_every=context["log_every"],
        checkpoint_seconds=context["checkpoint_seconds"],
        progress=None if task.progress.path is None else str(task.progress.path),
    )


def _fit(settings: CasSettings, task: Task, commits: CommitLog) -> None:
    """Run ``cas_loop`` under Ray Train, as `pipeline.training.fit` runs that of a stage; it raises the same."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from pipeline.refusals import EndOnRefusal, refusal_behind

    context: Mapping[str, Any] = task.context
    elastic = not isinstance(context["workers"], int)
    if elastic:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
    callbacks: list[Any] = [EndOnRefusal()]  # Ray's hints name the class of its first version

    def attempt() -> None:
        trainer = TorchTrainer(
            cas_loop,
            train_loop_config=dict(vars(settings)),
            scaling_config=ScalingConfig(**scaling_of(context, settings.checkpoint_seconds)),
            run_config=RunConfig(
                name=f"{task.scratch.name}-{len(commits.entries())}",
                storage_path=str(task.scratch / "ray-train"),
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


def cas_loop(config: dict[str, Any]) -> None:
    """What every worker runs: go on from the log, step, test after the last step, commit."""
    import ray.train
    import ray.train.torch

    settings = CasSettings(**config)
    torch.set_num_threads(settings.threads)
    context = ray.train.get_context()
    run = CasRun(
        settings,
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
        local_world=context.get_local_world_size(),
    )
    run.resume()
    run.train(lambda entry: None)
