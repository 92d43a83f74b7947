"""Search: which settings of an experiment give the best score, round by round.

*Stagewise* goes up the cascade: each stage's settings are chosen with those below it fixed, scored on the prefix of
the cascade that ends with it. A round whose trials need no training is a sweep over reused actors
(``pipeline.sweep.run``), one whose trials train is Ray Tune's (``pipeline.tuning.run``); what comes of both is one
summary, and this is where it is put together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from pipeline.dag import Task, missing
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.choice import best_of, finished, front_of, why
from pipeline.search.spec import SearchSpec, trains
from pipeline.search.trials import Point, Settings, run_trial, targets_of
from pipeline.storage import LocalStorage
from pipeline.sweep.actors import ActorPool
from pipeline.sweep.proposals import proposals_of, with_drawn_lists
from pipeline.sweep.run import Budget, Sweep
from pipeline.sweep.sharing import Costs, TrialNodes, counted, sharing_of, told

__all__ = ["rounds_of", "run_trial", "search_stages", "targets_of"]

Progress = Callable[[int, int], None]


def search_stages(task: Task) -> dict[str, Any]:
    """Graph node: run the search section of an experiment; ``{"chosen": settings, "rounds": [...]}``.

    A round has its points, the settings chosen with the reason "why", the "front" (indices of points), "sharing" in
    seconds and "shared", the same in a sentence. RuntimeError where no trial of a round finished.
    """
    experiment = Experiment.model_validate(task.context["experiment"])
    experiment = with_drawn_lists(experiment.model_copy(update={"store": task.storage.root}))
    declared = Experiment.model_validate(task.context["experiment"]).search
    assert declared is not None, "a search node needs a search section"
    rounds = Rounds(experiment, declared, task.storage, task.progress)
    try:
        found = [rounds.run(stage, paths) for stage, paths in rounds_of(experiment)]
    finally:
        rounds.pool.close()
    summary = {"chosen": rounds.chosen, "rounds": found}
    (task.out / "search.json").write_text(json.dumps(summary, indent=1))
    return summary


def rounds_of(experiment: Experiment) -> list[tuple[str, list[str]]]:
    """(stage whose score counts, paths searched) for each round, each after the rounds of the stages below it."""
    assert experiment.search is not None
    return experiment.search.rounds(experiment.names, experiment.last)


def trial_resources(experiment: Experiment) -> dict[str, float]:
    """What an actor that draws reserves: a CPU, and its share of a GPU."""
    gpus = experiment.resources.gpus_per_sampling_worker
    return {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})


class Rounds:
    """The rounds of one search, one after the other. Settings that are ``chosen`` stay so in later rounds.

    ``experiment`` lists all levels that are known in its search space; ``declared`` is the section as it was written.
    """

    def __init__(self, experiment: Experiment, declared: SearchSpec, storage: LocalStorage, progress: Progress) -> None:
        self.experiment, self.declared, self.storage, self.progress = experiment, declared, storage, progress
        self.chosen: Settings = {}
        self.budget = Budget(declared.budget)
        # Actors live on from one round of sampling to the next, with the weights that they loaded.
        self.pool = ActorPool(declared.concurrency, trial_resources(experiment), experiment.resources.threads)

    def run(self, stage: str, paths: list[str]) -> dict[str, Any]:
        """One round and its choice."""
        kind = "training" if any(map(trains, paths)) else "sampling"
        found = (self._trained if kind == "training" else self._swept)(stage, paths)
        points = found["points"]
        if not finished(points):
            reason = points[0]["error"] if points else "the budget was spent before the first one began"
            raise RuntimeError(f"no trial of the search at {stage} finished: {reason}")
        best = best_of(points)
        self.chosen |= points[best]["settings"]
        return {
            "stage": stage,
            "metric": self.declared.metric,
            "kind": kind,
            "chosen": points[best]["settings"],
            "front": front_of(points),
            "why": why(points, best, metric=self.declared.metric),
            **found,
        }

    def _swept(self, stage: str, paths: list[str]) -> dict[str, Any]:
        self._train(stage)
        proposals = proposals_of(self.declared, paths)
        sweep = Sweep(
            self.experiment, stage, paths, dict(self.chosen), proposals, self.storage, self.pool, self.budget,
            self.progress,
        )  # fmt: skip
        sweep.expected = getattr(proposals, "count", self.declared.trials)
        return sweep.run()

    def _train(self, stage: str) -> None:
        """The weights that trials are drawn from, where somebody removed them: Ray Train needs the actors' room."""
        nodes = Nodes(with_settings(self.experiment, self.chosen), trial=True)
        if absent := missing([nodes.train(name) for name in self.experiment.chain(stage)], self.storage):
            self.pool.close()
            execute(absent, self.storage, Silence(), use_ray=True)

    def _trained(self, stage: str, paths: list[str]) -> dict[str, Any]:
        """A round of trials that train, to whose workers the actors of the sweeps before leave their room."""
        from pipeline.tuning.run import train_round

        self.pool.close()
        begun = time.perf_counter()
        points = train_round(self.experiment, stage, paths, dict(self.chosen), self.progress, self.storage)
        nodes = [TrialNodes(self._counted(point, stage)) for point in points]
        wall = time.perf_counter() - begun
        sharing = sharing_of(nodes, Costs(self.storage), samples=self.declared.samples, look=None, wall=wall, busy=None)
        return {"points": points, "sharing": sharing, "shared": told(sharing, knew_levels=True)}

    def _counted(self, point: Point, stage: str) -> list[Any]:
        """What drawing and scoring a trial computed, so far as it is stored."""
        try:
            changed = with_settings(self.experiment, point["settings"])
        except ValidationError:
            return []
        return counted(targets_of(changed, stage))
