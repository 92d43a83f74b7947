"""A round of a search whose settings train: Ray Tune over trials, each a Ray Train run of the stages it changes.

Tune starts trials, keeps their number, and prunes by successive halving (Li et al. 2020, "ASHA"); which trial comes
next and what became of it stands in the journal of the store (``pipeline.tuning.log``), so that a driver that is killed
loses nothing: the trials in flight go on from their commits.
"""

from __future__ import annotations

import json
import logging
import os
import time
from types import SimpleNamespace
from typing import Any, cast

from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment_spec import Experiment
from pipeline.search.budget import Ledger
from pipeline.search.trials import Point
from pipeline.storage import Storage
from pipeline.tuning.actor import trainable
from pipeline.tuning.costs import in_place
from pipeline.tuning.desk import Desk
from pipeline.tuning.log import TrialLog
from pipeline.tuning.looks import METRIC, STEP
from pipeline.tuning.round import TrainingRound

log = logging.getLogger(__name__)

LOST = 3  # times that the process of a trial may be lost with its node, before the trial counts as failed
TRIALS = 10**6  # what Tune is told; the desk says when there are no more
LONGEST = 10**12  # steps: no training ends by Tune's counting


def train_round(trials: TrainingRound, ledger: Ledger, progress: Any, storage: Storage) -> tuple[list[Point], int]:
    """All points of a round of trials that train, and how many the budget kept from beginning; Ray must be initialised.

    A point has ``settings`` (those ``fixed`` too), ``status`` (finished, pruned or failed), ``error``, ``objective``
    (None unless finished), ``chained`` and ``oracle`` scores where finished, ``rungs`` ([step, pruning FID]),
    ``seconds``, the parts that ``pipeline.tuning.costs.time_use`` adds up, and ``cost_hours`` (of a GPU, or CPU, in
    training that was not there already, and in scores). ``start_seconds``: what its process and its trainings took
    until their first steps; None where it trained nothing. ``progress(done, trials)`` is called as trials end.
    RuntimeError where Ray Tune ended before the round.
    """
    desk = Desk(trials, trials.log(storage), ledger)
    if desk.has_more():
        if todo := trials.shared(storage):
            execute(todo, storage, Silence(), use_ray=True)
        if (told := without_room(trials, _gpus())) is not None:
            log.warning("%s", told)
        _run(trials, desk, progress)
        desk.check_over()
    points = [dict(entry.point) for entry in desk.entries() if entry.point is not None]
    return sorted(points, key=lambda point: json.dumps(point["settings"], sort_keys=True)), desk.not_begun


def _run(trials: TrainingRound, desk: Desk, progress: Any) -> None:
    """Run trials under Ray Tune until the desk has no more."""
    # Tune's own tables and plots of every trial: nobody reads them, and their library costs each search seconds.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # It would take the cancellation of the search, a SIGINT to this process, for the end of the round and return.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Looks report one metric, the end of a trial another.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    from ray import tune

    actor = tune.with_parameters(
        trainable(),
        experiment=trials.experiment.model_dump(mode="json"),
        place=(trials.search.model_dump(mode="json"), trials.stage, list(trials.paths), dict(trials.fixed)),
        root=desk.log.storage.address,
    )
    tuner = tune.Tuner(
        tune.with_resources(actor, training_resources(trials.experiment)),
        tune_config=tune.TuneConfig(
            num_samples=TRIALS,
            search_alg=_searcher(desk, progress),
            scheduler=None if trials.pruning is None else _halving(trials, desk),
            max_concurrent_trials=_at_once(trials),
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{trials.stage}-{trial.config['trial']}",
            # A trial that failed is one more of Tune's when it is tried again.
            trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"training-{trials.stage}-{int(time.time())}",
            storage_path=desk.log.storage.ray_address("ray-tune"),
            failure_config=tune.FailureConfig(max_failures=LOST),
            verbose=0,
        ),
    )
    tuner.fit()


def _at_once(trials: TrainingRound) -> int:
    return trials.search.trials_at_once(trials.paths, trials.experiment.resources.sampling_workers)


def _gpus() -> float:
    """GPUs of the cluster."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0.0))


def without_room(trials: TrainingRound, gpus: float) -> str | None:
    """Why looks of pruning will wait for trainings to end on so many ``gpus``, and what to do; None where they run.

    Trials train on while their looks wait, so that pruning saves nothing.
    """
    resources = trials.experiment.resources
    at_once, look = _at_once(trials), resources.gpus_per_sampling_worker
    held = at_once * resources.most_workers * resources.gpus_per_worker
    if trials.pruning is None or in_place(resources) or not look or held + look <= gpus:
        return None
    return (
        f"search.pruning: {at_once} trainings at once hold {held:g} GPUs of {gpus:g}, and a look, which needs "
        f"{look:g}, waits until one of them ends; lower search.concurrency"
    )


def training_resources(experiment: Experiment) -> dict[str, float]:
    """What Tune reserves for a trial: what its one worker needs, which it is itself; or next to nothing beside workers.

    Trials that held all CPUs or GPUs while workers of theirs asked for some would wait for ever.
    """
    resources = experiment.resources
    if not in_place(resources):
        return {"CPU": 0.01}
    return {"CPU": resources.cpus_per_worker} | ({"GPU": gpus} if (gpus := resources.gpus_per_worker) else {})


def _searcher(desk: Desk, progress: Any) -> Any:
    """The desk, as Tune asks it. Made on demand, so that importing this module does not import Ray."""
    from ray.tune.search import Searcher

    class Next(Searcher):
        """Tune's word for whoever says what comes next."""

        def __init__(self) -> None:
            super().__init__(metric="objective", mode="min")
            self.keys: dict[str, str] = {}
            self.done = 0

        def suggest(self, trial_id: str) -> Any:
            key = desk.next()
            if key is None:  # none now, or none any more
                return Searcher.FINISHED if desk.over else None
            self.keys[trial_id] = key
            progress(self.done, self.done + len(self.keys))
            return {"trial": key}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            del result
            self.done += 1
            desk.ended(self.keys.pop(trial_id), "its process was lost again and again" if error else None)
            progress(self.done, self.done + len(self.keys))

        # Tune stores its searchers; ours is made anew from the journal.
        def save(self, checkpoint_path: str) -> None:
            del checkpoint_path

        def restore(self, checkpoint_path: str) -> None:
            del checkpoint_path

    return Next()


def _halving(trials: TrainingRound, desk: Desk) -> Any:
    """Successive halving that knows the trials of earlier commands, and asks a trial to end instead of killing it."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

    journal: TrialLog = desk.log

    class Halving(AsyncHyperBandScheduler):
        """Tune's, but what it would stop is told so: Tune kills, and a killed trial leaves its workers to be found."""

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            action = super().on_trial_result(tune_controller, _named(trial.config["trial"]), result)
            if action == TrialScheduler.STOP:
                journal.stop(trial.config["trial"])
            return str(TrialScheduler.CONTINUE)

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_add(tune_controller, _named(trial.config["trial"]))

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            super().on_trial_complete(tune_controller, _named(trial.config["trial"]), result)

        def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
            super().on_trial_remove(tune_controller, _named(trial.config["trial"]))

    assert trials.pruning is not None
    pruning, nobody = trials.pruning, cast(Any, None)  # the scheduler does not look at who calls it
    scheduler = Halving(STEP, METRIC, "min", LONGEST, grace_period=pruning.first, reduction_factor=pruning.factor)
    for entry in desk.ended_before:
        earlier: Any = SimpleNamespace(trial_id=entry.key, config={"trial": entry.key})
        scheduler.on_trial_add(nobody, earlier)
        for step, score in entry.rungs:
            AsyncHyperBandScheduler.on_trial_result(scheduler, nobody, earlier, {STEP: step, METRIC: score})
    return scheduler


def _named(key: str) -> Any:
    """A trial by our name for it, which is the same in the next command; all that the scheduler reads."""
    return SimpleNamespace(trial_id=key)
