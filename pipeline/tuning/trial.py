"""One trial that trains, in the process that runs it: its trainings, the looks of pruning, its scores. No Tune here.

What it computes are nodes, as everywhere, so a trial that was cut off goes on from what is stored. Trainings are owned
by one trial at a time (``pipeline.claims``), for trials may differ in how they are sampled alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.addresses import without_secret
from pipeline.claims import claimed
from pipeline.dag import Node, NodeFailed, stored
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.trials import failed_point, run_trial
from pipeline.sentences import first_message
from pipeline.storage import Storage
from pipeline.tuning.costs import cost_of, in_place, leave_trainings, scoring_hours, start_seconds, trained_seconds
from pipeline.tuning.log import State, TrialEntry, TrialLog
from pipeline.tuning.looks import Looks, Report
from pipeline.tuning.round import Settings, TrainingRound, judging


@dataclass
class TrainingTrial:
    """The trial ``entry`` of ``round``, which has been begun; scores of its looks go to ``report``.

    ``fresh``: it is the first trial of its process, which was started for it, so that it waited for the process too.
    """

    round: TrainingRound
    entry: TrialEntry
    log: TrialLog
    report: Report
    fresh: bool = False
    times: dict[str, float] = field(default_factory=dict)

    @property
    def storage(self) -> Storage:
        return self.log.storage

    def run(self) -> dict[str, Any]:
        """Run it to its end, which is noted in the journal: its point. Errors become a field of the point."""
        began, settings = time.time(), {**self.round.fixed, **self.entry.settings}
        process = _process_seconds(self.entry.asked, began) if self.fresh else 0.0
        in_vain = False
        try:
            changed = self.round.changed(self.entry.settings)
            point = {**failed_point(settings, ""), "status": "pruned", "error": None}
            if not self._train(changed):
                point = self._scored(settings)
                in_vain = point["samples"] > 0  # which were drawn and have no score, if it failed: they stay the same
        except ValidationError as error:
            point, in_vain = failed_point(settings, first_message(error)), True
        except Exception as error:
            in_vain = isinstance(error, NodeFailed) and error.error.startswith(FloatingPointError.__name__)
            point = failed_point(settings, without_secret(f"{type(error).__name__}: {error}"))
        self.log.clear_stop(self.entry.key)
        entry = self.log.known(self.entry.key)
        if "start_seconds" in self.times:
            self.times["start_seconds"] += process
        point |= {
            **self.times,
            "seconds": time.time() - began + process,
            "rungs": [list(rung) for rung in entry.rungs],
            "cost_hours": cost_of(self.storage, entry, self.round.experiment.resources),
        }
        state: State = point["status"]
        self.log.end(self.entry.key, state, point, in_vain=state == "failed" and in_vain)
        return point

    def _train(self, changed: Experiment) -> bool:
        """Train what is missing, lower stages first; whether the trial was pruned."""
        for node in self.round.trainings(self.entry.settings):
            if stored(node, self.storage) is not None:
                continue
            # A run is claimed and not a node: one that is to have more steps goes on with the same run.
            with claimed(self.storage, Path(node.context["run"]).name) as waited:
                self._add("waiting_seconds", waited)
                if stored(node, self.storage) is None and self._train_node(changed, node):
                    return True
        return False

    def _train_node(self, changed: Experiment, node: Node) -> bool:
        """Train one stage, which nobody else does meanwhile; whether the trial was pruned."""
        rungs: tuple[int, ...] = ()
        if node.name == f"train/{self.round.stage}":
            rungs = self.round.rungs(node.config["training"]["steps"])
        here = {
            "in_place": in_place(changed.resources),
            "claimed": True,
            "watch_steps": rungs,
            "stop": self.log.stop_key(self.entry.key),
        }
        node = replace(node, context={**node.context, **here})
        execute(self._before(changed, node, bool(rungs)), self.storage, Silence(), use_ray=False)
        run = node.context["run"]
        attempt, asked = trained_seconds(self.storage, run), time.time()
        self.log.train(self.entry.key, run, attempt)
        looks = Looks(changed, self.round.stage, node, rungs, self.log, self.entry.key, self.report)
        try:
            if rungs:
                return looks.during(lambda: execute_one(node, self.storage))
            execute_one(node, self.storage)
            return False
        finally:
            self._add("training_seconds", trained_seconds(self.storage, run) - attempt)
            leave_trainings(self.log, self.entry.key, changed.resources)
            self._add("look_seconds", looks.seconds)
            if not in_place(changed.resources):  # else the process of the training looks beside it
                self.log.spend(self.entry.key, scoring_hours(looks.seconds, changed.resources))
            if (start := start_seconds(self.storage, run, since=asked)) is not None:
                self._add("start_seconds", start)

    def _before(self, changed: Experiment, node: Node, looked_at: bool) -> list[Node]:
        """What must be stored before ``node`` is trained: its inputs, and what a look at it needs."""
        if not looked_at:
            return list(node.inputs.values())
        return [*node.inputs.values(), *judging(Nodes(changed, trial=True))]

    def _scored(self, settings: Settings) -> dict[str, Any]:
        """The scores of a trial whose trainings are done."""
        started = time.time()
        point = run_trial(self.round.experiment, self.round.stage, settings)
        self.times["scoring_seconds"] = time.time() - started
        self.log.spend(self.entry.key, scoring_hours(self.times["scoring_seconds"], self.round.experiment.resources))
        return point

    def _add(self, part: str, seconds: float) -> None:
        self.times[part] = self.times.get(part, 0.0) + seconds


def execute_one(node: Node, storage: Storage) -> None:
    """Compute ``node`` here, its inputs being stored."""
    execute([node], storage, Silence(), use_ray=False)


def _process_seconds(asked: float, began: float) -> float:
    """What the first trial of this process waited for it to be there."""
    import psutil

    return max(0.0, began - max(asked, psutil.Process().create_time()))
