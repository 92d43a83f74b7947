"""What of an ablation goes to MLflow once there is a report of it: scores, curves, tables, the page, chosen weights.

A replicate has as params its cell, its seed and what differs between cells, and the few metrics of
``recording.scores.headline``; all other scores are in the runs of its evaluations, those that several replicates share
once, under the ablation's own run. That has few metrics: its table of differences is an artifact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.ablation.collecting import MISSING
from pipeline.ablation.opened_runs import BASELINE_TAG, AblationRuns, Key
from pipeline.ablation.parts import AblationReport, CellRow, Replicate, StageScore
from pipeline.ablation.spec import Metric
from pipeline.experiment import digest_of, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.recording.runs import (
    CHOSEN_TAG,
    ENDS,
    FRONT_TAG,
    NOTE_TAG,
    as_csv,
    ending_tags,
    log_evaluation,
    log_history,
)
from pipeline.recording.scores import headline
from pipeline.tracking.registry import ChosenPoint, register
from pipeline.tracking.runs import Tracker
from pipeline.tracking.views import save_view

# What of a report the table holds beside its cells.
TABLE = ("title", "created", "revision", "command", "baseline", "seeds", "confidence", "verdict", "equalities")
CHOICE = ("front", "chosen", "why", "sharing")


def record_ablation(
    report: AblationReport,
    tracking_uri: str,
    *,
    experiment: Experiment,
    html: Path,
    identity: str,
    folders: Mapping[Key, Mapping[str, Path]],
    replicates: Mapping[Key, Experiment] | None = None,
) -> str:
    """Write what ``report`` holds and register the chosen cell's weights; the id of the ablation's run.

    ``folders`` are the results of the trainings of each replicate by stage. ``replicates`` are the experiments of the
    replicates, with what their searches chose; None: as the cells say. A replicate that is still to come is left open.
    """
    from pipeline.ablation.report import figure_files

    runs = AblationRuns.of(experiment, Tracker(tracking_uri), identity, report.baseline)
    recorded = _Recorded(report, runs, folders)
    trials = recorded.trials()
    for tag, cells in ((CHOSEN_TAG, [report.chosen]), (FRONT_TAG, report.front), (BASELINE_TAG, [report.baseline])):
        kept = [run for (cell, _), run in trials.items() if cell in cells]
        runs.tracker.keep_tag(runs.opened, runs.parent, tag, kept)
    recorded.table()
    shown = [{"cell": cell, "seed": seed, **recorded.params[cell]} for cell, seed in trials]
    save_view(runs.tracker, runs.opened, runs.parent, key="rayfall-ablation", name="Ablation", trials=shown)
    runs.tracker.log_file(runs.parent, html)
    for name, svg in figure_files(report).items():
        runs.tracker.log_text(runs.parent, svg, f"figures/{name}")
    _register(report, runs, trials, folders, replicates)
    if all(one.error != MISSING for cell in report.cells for one in cell.replicates):
        runs.tracker.finish(runs.parent)
    return runs.parent


class _Recorded:
    """The report's cells on their way to the runs."""

    def __init__(self, report: AblationReport, runs: AblationRuns, folders: Mapping[Key, Mapping[str, Path]]) -> None:
        self.report, self.runs, self.folders = report, runs, folders
        self.params = runs.params_of({cell.name: cell.settings for cell in report.cells})
        self.uses = Counter(folder for stages in folders.values() for folder in stages.values())
        every = [one for cell in report.cells for one in cell.replicates]
        self.scored = Counter(_digest(stage.stage, _by_kind(stage)) for one in every for stage in one.stages)
        self.done: set[str] = set()

    def trials(self) -> dict[Key, str]:
        """Write every replicate that there is something of; their runs."""
        return {
            (cell.name, one.seed): self._trial(cell, one)
            for cell in self.report.cells
            for one in cell.replicates
            if one.error != MISSING  # an ablation is recorded while it goes on, too
        }

    def _trial(self, cell: CellRow, one: Replicate) -> str:
        tracker, report = self.runs.tracker, self.report
        marks = {CHOSEN_TAG: cell.name == report.chosen, FRONT_TAG: cell.name in report.front}
        tags = ending_tags(one.status, one.error) | {tag: "true" for tag, has in marks.items() if has}
        run = self.runs.trial(cell.name, one.seed, cell.settings, self.params[cell.name], tags)
        for stage, folder in self.folders.get((cell.name, one.seed), {}).items():
            self._training(run, one.seed, stage, folder)
        for scored in one.stages:
            self._evaluation(run, scored.stage, _by_kind(scored))
        figures = headline(_by_kind(one)) if one.status == "finished" else {}
        seconds = {"seconds": one.seconds, "training_seconds": one.training_seconds, "level": one.level}
        seconds |= {"start_seconds": one.start_seconds}
        figures |= {name: value for name, value in seconds.items() if value is not None}
        tracker.log_figures(run, figures)
        tracker.finish(run, ENDS[one.status])
        return run

    def _training(self, trial: str, seed: int, stage: str, folder: Path) -> None:
        key = f"{folder.parent.name} {self.runs.parent}"
        if key in self.done:
            return
        self.done.add(key)
        tracker, experiment = self.runs.tracker, self.runs.experiment
        run = tracker.known(self.runs.opened, key) or self.runs.training(
            trial, seed, experiment, stage, node=folder.parent.name, shared=self.uses[folder] > 1
        )
        log_history(tracker, run, folder)

    def _evaluation(self, trial: str, stage: str, scores: dict[str, dict[str, Any]]) -> None:
        digest = _digest(stage, scores)
        key = f"evaluate {digest[:16]} {self.runs.parent}"
        if not scores or key in self.done:
            return
        self.done.add(key)
        parent = self.runs.parent if self.scored[digest] > 1 else trial
        log_evaluation(self.runs.tracker, self.runs.opened, scores, stage=stage, key=key, parent=parent)

    def table(self) -> None:
        """The ablation's own run: few metrics, and tables as artifacts."""
        report, tracker, run = self.report, self.runs.tracker, self.runs.parent
        every = [one for cell in report.cells for one in cell.replicates]
        means = [mean for cell in report.cells if (mean := cell.mean("chained_fid")) is not None]
        chosen = report.cell(report.chosen).mean("chained_fid") if report.chosen else None
        figures = {
            "best_chained_fid": chosen if chosen is not None else min(means, default=None),
            "cells": len(report.cells),
            "replicates_finished": sum(one.status == "finished" for one in every),
            "replicates_failed": sum(one.status == "failed" and one.error != MISSING for one in every),
            "seconds": report.sharing.spent_seconds,
            "saved_seconds": report.sharing.saved_seconds,
        }
        tracker.log_figures(run, {name: float(value) for name, value in figures.items() if value is not None})
        shown = {"cells": {"__all__": {"name", "settings", "differences", "gpu_seconds", "reused_seconds", "commands"}}}
        table = report.model_dump(mode="json", include={**dict.fromkeys([*TABLE, *CHOICE], True), **shown})
        tracker.log_dict(run, table | {"replicates": self._replicates()}, "table.json")
        tracker.log_text(run, as_csv(_table(report)), "table.csv")
        tracker.log_text(run, as_csv(self._replicates()), "replicates.csv")
        tracker.client.set_tag(run, NOTE_TAG, "\n\n".join(filter(None, [report.question, *report.verdict, report.why])))

    def _replicates(self) -> list[dict[str, Any]]:
        return [
            {
                "cell": cell.name,
                "seed": one.seed,
                **self.params[cell.name],
                "status": one.status,
                **(headline(_by_kind(one)) if one.status == "finished" else {}),
                "seconds": one.seconds,
                "error": one.error or "",
            }
            for cell in self.report.cells
            for one in cell.replicates
        ]


def _by_kind(scored: Replicate | StageScore) -> dict[str, dict[str, Any]]:
    """Scores as their nodes summed them up, by kind of images."""
    found = {"chained": scored.chained, "oracle": scored.oracle}
    return {kind: one.model_dump(mode="json") for kind, one in found.items() if one is not None}


def _digest(stage: str, scores: Mapping[str, Any]) -> str:
    return digest_of([stage, scores])


def _table(report: AblationReport) -> list[dict[str, Any]]:
    """A row for each cell and metric, with the difference from the baseline."""
    return [
        {
            "cell": cell.name,
            "metric": metric,
            "n": len(cell.values(metric)),
            "mean": cell.mean(metric),
            "spread": cell.spread(metric),
            **{f"difference_{name}": value for name, value in _difference(cell, metric).items()},
        }
        for cell in report.cells
        for metric in report.metrics
    ]


def _difference(cell: CellRow, metric: Metric) -> dict[str, Any]:
    found = cell.differences.get(metric)
    return {} if found is None else found.model_dump(mode="json")


def _register(
    report: AblationReport,
    runs: AblationRuns,
    trials: Mapping[Key, str],
    folders: Mapping[Key, Mapping[str, Path]],
    replicates: Mapping[Key, Experiment] | None,
) -> None:
    """Register the chosen cell under the first seed that finished: the best seed's scores would be too good."""
    if report.chosen is None:
        return
    cell = report.cell(report.chosen)
    one = next((one for one in cell.finished if (cell.name, one.seed) in folders), None)
    if one is None:
        return
    key = cell.name, one.seed
    experiment = replicates[key] if replicates is not None else with_settings(runs.experiment, cell.settings)
    chain = experiment.chain(experiment.last)
    point = ChosenPoint(
        weights={name: str(folders[key][name]) for name in chain},
        sampling={name: experiment.stages[name].sampling.model_dump(mode="json") for name in chain},
        settings=cell.settings,
        scores=headline(_by_kind(one)),
    )
    means = {f"mean.{metric}": repr(mean) for metric in report.metrics if (mean := cell.mean(metric)) is not None}
    tags = {"rayfall.cell": cell.name, "rayfall.seed": str(one.seed), **means}
    register(runs.tracker, runs.experiment.name, point, run=trials[key], tags=tags)
