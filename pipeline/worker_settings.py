"""What the workers of a training are told: plain data that travels in Ray's config dict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dag import Task
from pipeline.data.cache import ShardCache
from pipeline.data.datasets import open_examples
from pipeline.data.loading import Examples
from pipeline.results import Place, folder_of
from stages.compilers import Asked

# Of a node's context, as it stands there.
TOLD = ("threads", "loader_processes", "cache", "cache_gb", "cache_users", "log_every", "checkpoint_seconds")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What any of them must know."""

    shuffle: dict[str, int]  # window and lanes
    storage: str
    run: str  # prefix of the run's commit log
    threads: int
    loader_processes: int
    cache: str
    cache_gb: float
    cache_users: int  # trainings that may run at once on a node
    log_every: int
    checkpoint_seconds: float
    progress: str | None

    def shard_cache(self) -> ShardCache:
        """The cache of this node."""
        return ShardCache(Path(self.cache), int(self.cache_gb * 1e9))

    def training_images(self, place: Place, size: int, cache: ShardCache) -> Examples:
        """The training split of a data set at ``size`` px; decoded images are kept where nobody decodes ahead."""
        keep = {"keep_bytes": 0} if self.loader_processes else {}
        return open_examples(folder_of(place), "train", size=size, cache=cache, **keep)


@dataclass(frozen=True, kw_only=True)
class LoopSettings(WorkerSettings):
    """What a worker that trains a stage must know besides (``pipeline.stage_run``)."""

    stage: dict[str, Any]
    training: dict[str, Any]
    seed: int
    data: Place  # of the data node's result
    tracking_run: str | None  # of MLflow, whose journal in the store is given the metrics
    watch_every: int | None = None  # steps from one average that is set aside to be scored to the next
    watch_steps: tuple[int, ...] = ()  # steps whose averages are set aside besides
    stop: str | None = None  # a key of the store: training ends early, after a commit, once it is there
    recompute: int | None = None  # px: blocks on maps of this side or more are computed again (stages.recomputing)
    compile: Asked = False  # whether the net is called compiled, and with "graphs" launched (stages.compiling)
    asked: float | None = None  # when these workers were asked for, in unix time


def told_by(task: Task, run: str) -> dict[str, Any]:
    """The fields of ``WorkerSettings`` as a graph node has them that keeps its commits under ``run``."""
    return {
        "shuffle": dict(task.config["shuffle"]),
        "storage": task.storage.address,
        "run": run,
        "progress": task.progress.key,
        **{name: task.context[name] for name in TOLD},
    }
