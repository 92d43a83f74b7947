"""The workers of a training: those of Ray Train, as every training here uses it, or one that is this process.

They resume from our commit log, and those that would fail again are told apart.

Not what is trained: ``pipeline.training`` trains stages, ``pipeline.cas.training`` the net behind an accuracy score.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.commits import CommitLog, Entry
from pipeline.errors import REFUSALS

log = logging.getLogger(__name__)

FAILURES = 3  # of workers, that Ray answers by itself
# How long elastic workers wait for their places (seconds). Only places that Ray believes to be there are asked for, so
# a long wait is for a node that is gone. Ray takes up to half a minute to find that out; its own limit of a minute
# would come on top of it.
START_SECONDS = 10.0


@dataclass(frozen=True)
class Worker:
    """One of a training's workers, as whatever started it knows it."""

    rank: int
    world: int  # how many there are
    local_world: int  # of them on this node
    device: torch.device
    report: Callable[[Entry | None, dict[str, float]], None]
    """Called by all workers, equally often, with metrics and a commit."""


Loop = Callable[[dict[str, Any], Worker], None]
"""What a worker runs, given the settings."""


def run_workers(
    loop: Loop,
    settings: Mapping[str, Any],
    *,
    context: Mapping[str, Any],
    commits: CommitLog,
    name: str,
    place: str,
) -> None:
    """Run ``loop(settings, worker)`` in every worker, with Ray's own files at ``place``, until it ended well.

    Raises what Ray raises when its retries are used up, and at once what a worker would meet again (``REFUSALS``): a
    shard that was altered, say. Elastic workers are on nodes that come and go, more often than any number of retries
    foresees: they are given up only when an attempt came no further, by ``commits``, than the one before.

    With ``context["in_place"]`` the one worker is this process, which holds what a worker needs: three processes less
    to start, and not even Ray Train to import. Nothing is missed: what Ray would store are pointers to our commits, and
    whoever started this process starts it again when it dies.
    """

    def reached() -> int:
        return max((entry.info.get("step", 0) for entry in commits.entries()), default=0)

    if context.get("in_place"):
        assert context["workers"] == 1, "one process is one worker"
        worker = alone(gpu=bool(context.get("gpus_per_worker")))
        while_it_advances(lambda: loop(dict(settings), worker), reached, Exception)
        return

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
            lambda config: loop(config, of_ray_train()),
            train_loop_config=dict(settings),
            scaling_config=ScalingConfig(**scaling_of(context)),
            run_config=RunConfig(
                name=f"{name}-{len(commits.entries())}",
                storage_path=place,
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

    if elastic:
        while_it_advances(attempt, reached, TrainingFailedError)
    else:
        attempt()


def alone(*, gpu: bool) -> Worker:
    """The only worker of a training: nobody waits for what it reports."""
    return Worker(0, 1, 1, torch.device("cuda", 0) if gpu else torch.device("cpu"), lambda entry, metrics: None)


def of_ray_train() -> Worker:
    """This process, a worker of Ray Train."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    return Worker(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        local_world=context.get_local_world_size(),
        device=ray.train.torch.get_device(),
        report=_report_pointer,
    )


def _report_pointer(entry: Entry | None, metrics: dict[str, float]) -> None:
    """Tell Ray of a commit: a checkpoint that holds nothing but the name of ours."""
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        if entry is not None:
            (Path(folder) / "pointer.json").write_text(json.dumps({"folder": entry.folder, "number": entry.number}))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def while_it_advances(attempt: Callable[[], None], reached: Callable[[], int], failure: type[Exception]) -> None:
    """Call ``attempt`` until it ends well.

    Raises its ``failure`` where ``reached()`` is no further than before it, and one of ``REFUSALS`` in any case.
    """
    while True:
        before = reached()
        try:
            return attempt()
        except REFUSALS:
            raise
        except failure as error:
            if reached() <= before:
                raise
            log.warning("training goes on from step %d after a failure: %s", reached(), error)


def scaling_of(context: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of Ray's ScalingConfig; ``context["workers"]`` is a number, or a mapping of min and max.

    A change of the number of workers loses what was done since the last commit, so it is considered only after twice
    the time between commits: each group commits at least once, however often nodes come and go.
    """
    workers, gpus = context["workers"], context.get("gpus_per_worker", 0)
    return {
        "num_workers": workers if isinstance(workers, int) else (workers["min"], workers["max"]),
        "elastic_resize_monitor_interval_s": 2 * context["checkpoint_seconds"],
        "use_gpu": bool(gpus),
        "resources_per_worker": {"CPU": context["cpus_per_worker"]} | ({"GPU": gpus} if gpus else {}),
    }
