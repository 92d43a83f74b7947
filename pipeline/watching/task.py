"""One moment of training scored as a Ray task: what travels to it, and how it is waited for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.results import Place

if TYPE_CHECKING:
    from pipeline.experiment_spec import Experiment

POLL_SECONDS = 1.0
NICENESS = 19  # of a task that reserves nothing; Ray's own processes, the training among them, have 15


@dataclass(frozen=True)
class PointJob:
    """What a task needs to score one moment: where results are, for it to fetch; plain data otherwise."""

    weights: tuple[Place, ...]  # of the chain, base first; the last is the stage that is scored
    sampling: tuple[Mapping[str, Any], ...]
    data: Place
    features: Place  # classifiers
    judge: Place
    labels: str  # how classes are drawn: uniform or histogram
    samples: int
    reference: int
    block: int
    seed: int
    precision: str
    gpu: bool
    polite: bool


def sampling_of(experiment: Experiment, name: str) -> list[dict[str, Any]]:
    """How the chain up to stage ``name`` is sampled: as in the end, in fewer steps where ``during`` says so.

    With the average that training keeps: one of another length is rebuilt only once training is done.
    """
    during = experiment.evaluation.during
    assert during is not None
    settings = []
    for stage in experiment.chain(name):
        sampling = experiment.stages[stage].sampling.model_dump(mode="json") | {"ema_length": None}
        settings.append(sampling | {"steps": min(sampling["steps"], during.sampling_steps or sampling["steps"])})
    return settings


def job_of(experiment: Experiment, name: str, weights: tuple[Place, ...], places: tuple[Place, ...]) -> PointJob:
    """A moment of stage ``name``; ``places`` are those of both classifiers, features first, and of the data."""
    evaluation, during = experiment.evaluation, experiment.evaluation.during
    assert during is not None
    features, judge, data = places
    return PointJob(
        weights=weights,
        sampling=tuple(sampling_of(experiment, name)),
        data=data,
        features=features,
        judge=judge,
        labels=evaluation.labels,
        samples=during.samples,
        reference=during.reference,
        block=evaluation.block,
        seed=evaluation.seed,
        precision=evaluation.precision,
        gpu=during.gpus > 0,
        polite=not during.cpus and not during.gpus,
    )


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
