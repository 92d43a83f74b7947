"""One moment of training scored as a Ray task: what travels to it, and how it is waited for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 1.0
NICENESS = 19  # of a task that reserves nothing; Ray's own processes, the training among them, have 15


@dataclass(frozen=True)
class PointJob:
    """What a task needs to score one moment. Folders; plain data otherwise."""

    weights: tuple[Path, ...]  # of the chain, base first; the last is the stage that is scored
    sampling: tuple[Mapping[str, Any], ...]
    data: Path
    features: Path  # classifiers
    judge: Path
    labels: str  # how classes are drawn: uniform or histogram
    samples: int
    reference: int
    block: int
    seed: int
    precision: str
    gpu: bool
    polite: bool


def score_in_task(job: PointJob) -> dict[str, Any] | None:
    """``pipeline.watching.scoring.score_weights`` in a process of Ray's that serves nothing else."""
    if job.polite:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    from pipeline.watching.scoring import score_weights

    return score_weights(job)


def in_task(
    job: PointJob, *, cpus: float, gpus: float, name: str, called_off: Callable[[], bool]
) -> dict[str, Any] | None:
    """``score_in_task`` on Ray, which must be initialised. None as well where it was ``called_off`` meanwhile.

    Raises what the task raised, and Ray's exception where its process died twice.
    """
    import ray

    remote: Any = ray.remote(score_in_task).options(
        num_cpus=cpus,
        num_gpus=gpus,
        name=name,
        max_retries=1,
        # Ray's processes serve many tasks one after the other; one with variables of its own is not shared with others,
        # so its low priority stays with it.
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    reference = remote.remote(job)
    while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
        if called_off():
            ray.cancel(reference, force=True)
            return None
    found: dict[str, Any] | None = ray.get(reference)
    return found
