"""What of a search goes to MLflow: a run under the experiment's, a child per trial, and theirs for what they computed.

A trial has as params what was searched and nothing else, and the few metrics of ``scores.headline``; all other
scores are in the run of its evaluation. Only a finished trial has scores: those of a first look or of a training that
was cut short are curves of their own (``screening_fid``, ``screening_accuracy``, ``pruning_fid``), so that sorting by a
score compares equals.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.commits import CommitLog
from pipeline.dag import Node, stored
from pipeline.experiment import digest_of, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outcome import Outcome
from pipeline.recording.runs import (
    CHOSEN_TAG,
    ENDS,
    FRONT_TAG,
    NOTE_TAG,
    as_csv,
    ending_tags,
    log_scores,
    log_training,
    open_training,
)
from pipeline.recording.scores import headline, summaries_of
from pipeline.recording.settings import flat_params
from pipeline.report.search_parts import end_of
from pipeline.report.setting_names import param_names, told_value
from pipeline.results import Committed, Result
from pipeline.storage import open_storage
from pipeline.tracking.registry import ChosenPoint, register
from pipeline.tracking.runs import Tracker
from pipeline.tracking.views import HIGHEST_ACCURACY, LOWEST_FID, Best, save_view

BEST: Mapping[str, Best] = {"chained_fid": LOWEST_FID, "chained_accuracy": HIGHEST_ACCURACY}  # by search.metric
SCREENED: Mapping[str, str] = {"chained_fid": "screening_fid", "chained_accuracy": "screening_accuracy"}
SUMS = ("saved_seconds", "screening_saved_seconds", "wall_seconds", "trial_seconds", "shared_seconds")


def record_search(tracker: Tracker, opened: str, parent: str, outcome: Outcome) -> None:
    """Write the search of ``outcome`` and register the weights with the settings that it chose; nothing without one."""
    if outcome.search is None:
        return
    summary = outcome.search.summary
    search = _opened(tracker, opened, parent, outcome)
    kept: dict[str, list[str]] = {CHOSEN_TAG: [], FRONT_TAG: []}
    trained: set[str] = set()
    rounds = [_Round(tracker, opened, search, outcome, number, trained) for number in range(len(summary["rounds"]))]
    for one in rounds:
        for tag, runs in one.record().items():
            kept[tag] += runs
    for tag, runs in kept.items():
        tracker.keep_tag(opened, search, tag, runs)
    for one in rounds:
        name, only = f"Search {one.stage}", f" and params.round = '{one.number + 1}'"
        key = f"rayfall-search-{one.number + 1}"
        best = BEST[one.found["metric"]]
        save_view(tracker, opened, search, key=key, name=name, trials=one.params, best=best, also=only)
    tracker.log_dict(search, summary, "search.json")
    tracker.log_text(search, _table(rounds), "trials.csv")
    tracker.log_figures(search, _counted(summary))
    tracker.finish(search, seconds=outcome.search.seconds)
    if kept[CHOSEN_TAG]:
        _register(tracker, outcome, kept[CHOSEN_TAG][-1])


def _opened(tracker: Tracker, opened: str, parent: str, outcome: Outcome) -> str:
    assert outcome.search is not None
    spec = outcome.declared.search
    assert spec is not None, "there is no result of a search without a search section"
    told = [f"{found['stage']}: {found['why']}" for found in outcome.search.summary["rounds"] if found.get("why")]
    return tracker.run(
        opened,
        name="search",
        kind="search",
        key=f"search {parent}",
        parent=parent,
        params={"mode": spec.mode, "metric": spec.metric, "samples": spec.samples},
        tags={NOTE_TAG: "\n\n".join(told)},
        seconds=outcome.search.seconds,
    )


def _counted(summary: Mapping[str, Any]) -> dict[str, float]:
    """How many trials came to which end, and what sharing saved, over all rounds."""
    points = [point for found in summary["rounds"] for point in found["points"]]
    figures: dict[str, float] = {"trials": len(points), **Counter(map(end_of, points))}
    sharing = [found.get("sharing") or {} for found in summary["rounds"]]
    for name in SUMS:
        if values := [one[name] for one in sharing if one.get(name) is not None]:
            figures[name] = sum(values)
    return figures


def _register(tracker: Tracker, outcome: Outcome, run: str) -> None:
    experiment = outcome.experiment
    chain = experiment.chain(experiment.last)
    assert outcome.search is not None
    point = ChosenPoint(
        weights={name: outcome.results[f"train/{name}"].address for name in chain},
        sampling={name: experiment.stages[name].sampling.model_dump(mode="json") for name in chain},
        settings=outcome.search.summary["chosen"],
        scores=headline(summaries_of(outcome, experiment.last)),
    )
    register(tracker, outcome.declared.name, point, run=run)


class _Round:
    """The trials of one round; ``trained`` has the trainings that trials of earlier rounds asked for."""

    def __init__(
        self, tracker: Tracker, opened: str, search: str, outcome: Outcome, number: int, trained: set[str]
    ) -> None:
        assert outcome.search is not None
        spec = outcome.declared.search
        assert spec is not None
        self.tracker, self.opened, self.search, self.number = tracker, opened, search, number
        self.declared: Experiment = outcome.declared
        self.found: Mapping[str, Any] = outcome.search.summary["rounds"][number]
        self.stage: str = self.found["stage"]
        self.points: Sequence[Mapping[str, Any]] = self.found["points"]
        self.paths = spec.rounds(self.declared.names, self.declared.last)[number][1]
        searched = [{path: point["settings"].get(path) for path in self.paths} for point in self.points]
        self.params = flat_params(searched, self.declared.model_dump(mode="json"), all_paths=True)
        self.trained = trained

    def record(self) -> dict[str, list[str]]:
        """Write all trials; gives the runs that have the tags of the chosen point and of the Pareto front."""
        marked: dict[str, list[str]] = {CHOSEN_TAG: [], FRONT_TAG: []}
        for index, point in enumerate(self.points):
            run = self._trial(index, point)
            for tag in self._marks(index, point):
                marked[tag].append(run)
        return marked

    def _marks(self, index: int, point: Mapping[str, Any]) -> list[str]:
        chosen = end_of(point) == "finished" and point["settings"] == self.found["chosen"]
        front = index in self.found.get("front", ())
        return [tag for tag, has in ((CHOSEN_TAG, chosen), (FRONT_TAG, front)) if has]

    def _trial(self, index: int, point: Mapping[str, Any]) -> str:
        status, seconds = end_of(point), float(point["seconds"])
        tags = ending_tags(status, point["error"]) | dict.fromkeys(self._marks(index, point), "true")
        run = self.tracker.run(
            self.opened,
            name=f"trial/{self.stage} {self._told(point)}",
            kind="trial",
            key=f"trial {self.number} {digest_of(point['settings'])[:16]} {self.search}",
            parent=self.search,
            params={"stage": self.stage, "round": self.number + 1, **self.params[index]},
            tags=tags,
            seconds=seconds,
        )
        if status == "finished":
            self._evaluation(run, point)
        if status in ("finished", "pruned"):
            self._trainings(run, point)
        looks = "pruning_fid" if self.found.get("kind") == "training" else SCREENED[self.found["metric"]]
        self.tracker.log_curve(run, looks, [(int(at), float(score)) for at, score in point.get("rungs") or ()])
        figures = {"seconds": seconds, "start_seconds": point.get("start_seconds")}
        figures |= headline(_scores(point)) if status == "finished" else {}
        self.tracker.log_figures(run, {name: value for name, value in figures.items() if value is not None})
        self.tracker.finish(run, ENDS[status], seconds=seconds)
        return run

    def _told(self, point: Mapping[str, Any]) -> str:
        names = param_names(self.paths)
        own = f"{self.stage}."
        told = {names[path].removeprefix(own): told_value(point["settings"].get(path)) for path in self.paths}
        return ", ".join(f"{name} {value}" for name, value in told.items())

    def _evaluation(self, trial: str, point: Mapping[str, Any]) -> None:
        scores, made = _scores(point), with_settings(self.declared, point["settings"])
        key = f"evaluate {digest_of(scores)[:16]} {trial}"
        log_scores(self.tracker, self.opened, scores, experiment=made, stage=self.stage, key=key, parent=trial)

    def _trainings(self, trial: str, point: Mapping[str, Any]) -> None:
        """A run for each training that this trial was the first to ask for, with its curves as far as they went."""
        made = with_settings(self.declared, point["settings"])
        for name, node, found, whole in _trained(self.declared, made, self.stage):
            key = f"{Path(node.key).name} {self.search}"
            if key in self.trained:
                continue
            self.trained.add(key)
            run = open_training(self.tracker, self.opened, made, name, key=key, parent=trial, found=found)
            log_training(self.tracker, run, found, "FINISHED" if whole else ENDS[end_of(point)])


def _trained(declared: Experiment, made: Experiment, stage: str) -> Iterator[tuple[str, Node, Result, bool]]:
    """The trainings of a trial of settings ``made`` that searches are for: stage, node, and the result or, not whole,
    what its last checkpoint holds."""
    storage = open_storage(declared.store)
    nodes, other = Nodes(declared), Nodes(made)
    for name in declared.chain(stage):
        node = other.train(name)
        if name not in nodes.searched_trainings and node.digest == nodes.train(name).digest:
            continue  # the experiment's own, which has a run above
        if (result := stored(node, storage)) is not None:
            yield name, node, result, True
            continue
        log = CommitLog(storage, node.context["run"], owner="reader", clock=time.time)
        entry = next(log.sound(lambda entry: "step" in entry.info and "kept" not in entry.info), None)
        if entry is not None:
            found = Result(Committed(log, entry), entry.info, entry.info.get("seconds", 0.0), reused=True)
            yield name, node, found, False


def _scores(point: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {kind: point[kind] for kind in ("chained", "oracle") if point.get(kind) is not None}


def _table(rounds: Sequence[_Round]) -> str:
    """All trials as CSV."""
    rows: list[dict[str, Any]] = []
    for one in rounds:
        for point, params in zip(one.points, one.params, strict=True):
            scores = headline(_scores(point)) if end_of(point) == "finished" else {}
            place = {"round": one.number + 1, "stage": one.stage, "status": end_of(point)}
            rows.append({**place, **params, **scores, "seconds": point["seconds"], "error": point["error"] or ""})
    return as_csv(rows)
