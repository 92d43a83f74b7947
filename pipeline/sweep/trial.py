"""One trial of a sweep on its way: begun, looked at, dropped or gone on with, ended. Knows no order of trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.dag import Node, missing
from pipeline.experiment_spec import Experiment
from pipeline.search.spec import SearchSpec
from pipeline.search.trials import (
    Point,
    Settings,
    failed_point,
    figure_of,
    objective_of,
    point_of,
    settled_experiment,
    targets_of,
)
from pipeline.storage import Storage
from pipeline.sweep.graph import ActorGraph
from pipeline.sweep.screening import Look, is_hopeless, look_at, rivals_of, steps_of_look
from pipeline.sweep.sharing import TrialNodes, counted


@dataclass
class Trial:
    """What a trial computes and what is known of it so far; ``point`` when it has come to its end.

    ``changed`` is the experiment with its settings; None where they cannot go together, which is a failed trial.
    """

    settings: Settings
    changed: Experiment | None
    targets: list[Node] = field(default_factory=list)
    looks: list[Node] = field(default_factory=list)  # of a first look; none where all samples are drawn at once
    seen: Look | None = None
    goes_on: bool = False  # all samples are asked for
    point: Point | None = None

    @property
    def identity(self) -> str:
        """Trials whose settings mean the same (both kinds of augmentation at s = 0) are one trial."""
        return self.targets[0].digest if self.targets else repr(sorted(self.settings.items()))

    @property
    def dropped(self) -> bool:
        """Whether its first look was its end."""
        return self.point is not None and self.point["status"] == "dropped"

    @property
    def nodes(self) -> TrialNodes:
        """What is counted of its cost."""
        full = counted(self.targets) if self.goes_on or self.dropped else []
        return TrialNodes(full, counted(self.looks), self.dropped)


@dataclass
class Trials:
    """Makes trials of ``experiment`` scored at ``stage``, and has ``graph`` compute what they need."""

    experiment: Experiment
    stage: str
    storage: Storage
    graph: ActorGraph

    @property
    def search(self) -> SearchSpec:
        """The search section that the trials are of."""
        assert self.experiment.search is not None, "trials are of a search section"
        return self.experiment.search

    @property
    def look(self) -> int | None:
        """Samples of the first look."""
        return self.search.first_look(self.experiment.evaluation.block)

    def made(self, settings: Settings) -> Trial:
        """A trial that has not begun."""
        changed = settled_experiment(self.experiment, settings)
        if isinstance(changed, str):
            return Trial(settings, None, point=failed_point(settings, changed))
        return Trial(settings, changed, targets_of(changed, self.stage), self._looks(changed))

    def _looks(self, changed: Experiment) -> list[Node]:
        """What a first look asks for: scores of the chained images, and those themselves where images are compared."""
        if self.look is None:
            return []
        (scores,) = targets_of(changed, self.stage, look=self.look)
        return [scores, scores.inputs["judged"]] if self.search.metric == "chained_accuracy" else [scores]

    def costs(self, trial: Trial) -> bool:
        """Whether beginning it computes anything: where there is a first look, that it cannot be looked up."""
        return trial.point is None and bool(missing(trial.looks or trial.targets, self.storage))

    def left(self, trial: Trial) -> list[Node]:
        """What there is to compute until all its samples are drawn and scored."""
        return missing(trial.targets, self.storage)

    def begin(self, trial: Trial) -> None:
        """Ask for the first look, or for all samples where there is none."""
        if trial.point is None:
            trial.goes_on = not trial.looks
            self.graph.want(trial.looks or trial.targets)

    def broke(self, trial: Trial) -> bool:
        """Whether it came to its end because something that it needs failed, which may go well another time."""
        return trial.point is not None and self.graph.why([*trial.looks, *trial.targets]) is not None

    def begin_again(self, trial: Trial) -> None:
        """Ask once more for what failed."""
        trial.point = None
        self.graph.want_again(trial.targets if trial.goes_on else trial.looks)

    def settled(self, trial: Trial) -> bool:
        """Whether what ``begin`` asked for has come to an end."""
        return trial.point is not None or self.graph.settled(trial.looks or trial.targets)

    def take_look(self, trial: Trial) -> None:
        """Take in what the first look says, which must be settled; a trial that failed there is at its end."""
        if trial.changed is None or not trial.looks or trial.seen is not None or trial.point is not None:
            return
        failure = self.graph.why(trial.looks)
        if failure is None:
            point = point_of(trial.changed, self.stage, trial.settings, self.storage, look=self.look)
            failure = point["error"]
        if failure is None:
            steps = steps_of_look(trial.changed, self.stage)
            trial.seen = look_at(trial.looks[0], self.storage, metric=self.search.metric, steps=steps)
        else:
            trial.point = failed_point(trial.settings, failure)

    def decide(self, trial: Trial, others: Sequence[Trial]) -> None:
        """Drop a trial that was looked at, if the best of ``others`` says so."""
        if trial.seen is None or not self.survives(trial):
            return
        screening = self.search.screening
        assert screening is not None, "a look is of a screening"
        looks = rivals_of(trial.seen, (other.seen for other in others if other.seen is not None))
        best = min(looks, key=self._objective, default=trial.seen)
        if is_hopeless(trial.seen, best, metric=self.search.metric, errors=screening.errors):
            self.drop(trial)

    def survives(self, trial: Trial) -> bool:
        """Whether it was looked at, and neither dropped nor gone on with so far."""
        return trial.seen is not None and not trial.goes_on and trial.point is None

    def drop(self, trial: Trial) -> None:
        """End a trial with its first look."""
        assert trial.changed is not None, "what was looked at could be drawn"
        point = point_of(trial.changed, self.stage, trial.settings, self.storage, look=self.look)
        trial.point = {**point, "status": "dropped", "objective": None, "rungs": self._rungs(trial)}

    def go_on(self, trial: Trial) -> None:
        """Ask for all samples of a trial that was looked at."""
        trial.goes_on = True
        self.graph.want(trial.targets)

    def promise(self, trial: Trial) -> float:
        """By what its look says: lower is better."""
        assert trial.seen is not None, "it was looked at"
        return self._objective(trial.seen)

    def _objective(self, look: Look) -> float:
        objective = objective_of(self.search, look.scores)
        assert objective is not None, "a trial without a score has failed"
        return objective

    def _rungs(self, trial: Trial) -> list[list[float]]:
        seen = trial.seen
        return [] if seen is None else [[seen.scores["samples"], seen.scores[figure_of(self.search)]]]

    def rung(self, trial: Trial) -> tuple[int, float] | None:
        """Samples and objective of a trial that was dropped."""
        if trial.seen is None or not trial.dropped:
            return None
        return trial.seen.scores["samples"], self._objective(trial.seen)

    def take_end(self, trial: Trial) -> bool:
        """Whether the trial has come to its end; if it has, it is given its point here."""
        if trial.point is None and trial.goes_on and trial.changed is not None and self.graph.settled(trial.targets):
            failure = self.graph.why(trial.targets)
            if failure is None:
                point = point_of(trial.changed, self.stage, trial.settings, self.storage)
                trial.point = {**point, "rungs": self._rungs(trial)}
            else:
                trial.point = failed_point(trial.settings, failure)
        return trial.point is not None
