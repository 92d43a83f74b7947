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

from pipeline.dag import Task, missing
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.budget import Ledger, prefix_of
from pipeline.search.checks import retrains
from pipeline.search.choice import best_of, finished, front_of, why
from pipeline.search.proposals import proposals_of, with_drawn_lists
from pipeline.search.spec import SearchSpec, trains
from pipeline.search.trials import Point, Settings, settled_experiment, targets_of
from pipeline.storage import Storage
from pipeline.sweep.actors import ActorPool
from pipeline.sweep.run import Sweep
from pipeline.sweep.sharing import Costs, TrialNodes, counted, knew_levels, sharing_of, told

Progress = Callable[[int, int], None]


def search_stages(task: Task) -> dict[str, Any]:
    """Graph node: run the search section of an experiment; ``{"chosen": settings, "rounds": [...], "spent": {...}}``.

    A round has its points, the settings chosen with the reason "why", the "front" (indices of points), "sharing" in
    seconds and "shared", the same in a sentence. One in which no trial could begin for the budget has no points, and
    chose nothing: the declared settings stay. "spent" are hours by the clock and GPU-hours, over all commands.
    RuntimeError where trials of a round began and none finished.
    """
    experiment = Experiment.model_validate(task.context["experiment"])
    experiment = experiment.model_copy(update={"store": task.storage.address})
    declared = experiment.search
    assert declared is not None, "a search node needs a search section"
    ledger = Ledger(task.storage, prefix_of(experiment, declared), declared.budget, experiment.resources)
    rounds = Rounds(with_drawn_lists(experiment), declared, task.storage, ledger, task.progress)
    with ledger.kept():
        try:
            found = [rounds.run(stage, paths) for stage, paths in rounds_of(experiment)]
        finally:
            rounds.pool.close()
    summary = {"chosen": rounds.chosen, "rounds": found, "spent": ledger.summary()}
    (task.out / "search.json").write_text(json.dumps(summary, indent=1))
    return summary


def rounds_of(experiment: Experiment) -> list[tuple[str, list[str]]]:
    """(stage whose score counts, paths searched) for each round, each after the rounds of the stages below it."""
    assert experiment.search is not None
    return experiment.search.rounds(experiment.names, experiment.last)


def drawing_resources(experiment: Experiment) -> dict[str, float]:
    """What an actor that draws reserves: a CPU for each of its threads, and its share of a GPU."""
    gpus = experiment.resources.gpus_per_sampling_worker
    return {"CPU": float(experiment.resources.threads)} | ({"GPU": gpus} if gpus else {})


class Rounds:
    """The rounds of one search, one after the other. Settings that are ``chosen`` stay so in later rounds.

    ``experiment`` lists all levels that are known in its search space; ``declared`` is the section as it was written.
    """

    def __init__(
        self, experiment: Experiment, declared: SearchSpec, storage: Storage, ledger: Ledger, progress: Progress
    ) -> None:
        self.experiment, self.declared, self.storage, self.progress = experiment, declared, storage, progress
        self.chosen: Settings = {}
        self.ledger = ledger
        # Actors live on from one round of sampling to the next, with the weights that they loaded.
        resources = experiment.resources
        actors = declared.trials_at_once([], resources.sampling_workers)
        self.pool = ActorPool(actors, drawing_resources(experiment), resources.threads)

    def run(self, stage: str, paths: list[str]) -> dict[str, Any]:
        """One round and its choice."""
        kind = "training" if any(map(trains, paths)) else "sampling"
        found = (self._trained if kind == "training" else self._swept)(stage, paths)
        points = found["points"]
        named = {"stage": stage, "metric": self.declared.metric, "kind": kind}
        if not points:
            reason = "the budget was spent before a trial of this round began, so the declared settings stay"
            return {**named, "chosen": {}, "front": [], "why": reason, **found, "shared": ""}
        if not finished(points):
            raise RuntimeError(f"no trial of the search at {stage} finished: {_first_error(points)}")
        best = best_of(points)
        self.chosen |= points[best]["settings"]
        return {
            **named,
            "chosen": points[best]["settings"],
            "front": front_of(points),
            "why": why(points, best, metric=self.declared.metric),
            **found,
        }

    def _swept(self, stage: str, paths: list[str]) -> dict[str, Any]:
        proposals = proposals_of(self.declared, paths)
        sweep = Sweep(
            self.experiment, stage, paths, dict(self.chosen), proposals, self.storage, self.pool, self.ledger,
            self.progress,
        )  # fmt: skip
        if not self.ledger.is_spent():  # else no trial begins that has not begun before, from weights that were there
            self._train(stage)
        return sweep.run()

    def _train(self, stage: str) -> None:
        """The weights that trials are drawn from, where no trial of an earlier round left them: those of stages whose
        training is searched are not an input of the search. Ray Train needs the actors' room."""
        nodes = Nodes(with_settings(self.experiment, self.chosen), trial=True)
        if absent := missing([nodes.train(name) for name in self.experiment.chain(stage)], self.storage):
            self.pool.close()
            execute(absent, self.storage, Silence(), use_ray=True)

    def _trained(self, stage: str, paths: list[str]) -> dict[str, Any]:
        """A round of trials that train, to whose workers the actors of the sweeps before leave their room."""
        from pipeline.tuning.round import TrainingRound
        from pipeline.tuning.run import train_round

        self.pool.close()
        begun = time.perf_counter()
        trials = TrainingRound(self.experiment, self.declared, stage, tuple(paths), dict(self.chosen))
        points, not_begun = train_round(trials, self.ledger, self.progress, self.storage)
        wall = time.perf_counter() - begun
        settled = [settled_experiment(self.experiment, point["settings"]) for point in points]
        changed = [one for one in settled if isinstance(one, Experiment)]
        chain = self.experiment.chain(stage)
        retrained = [name for name in chain if any(retrains(self.experiment, path, name) for path in paths)]
        nodes = [TrialNodes(counted(targets_of(one, stage), trained=retrained)) for one in changed]
        sharing = sharing_of(nodes, Costs(self.storage), samples=self.declared.samples, look=None, wall=wall, busy=None)
        sentence = told(sharing, knew_levels=knew_levels(self.declared, paths, changed))
        if not_begun:
            sentence += f"; the budget was spent before {not_begun} more began"
        return {"points": points, "sharing": sharing, "shared": sentence}


def _first_error(points: list[Point]) -> str:
    """Why there is nothing to choose from: the first of the errors, of trials that were all ended early none."""
    errors = [point["error"] for point in points if point["error"] is not None]
    return errors[0] if errors else "all were ended early"
