"""What of an ablation goes to MLflow once there is a report of it: scores, curves, tables, the page, chosen weights.

A replicate has as params its cell, its seed and what differs between cells, and the few metrics of
``recording.scores.headline``; all other scores are in the runs of its evaluations, those that several replicates share
once, under the ablation's own run. That has few metrics: its table of differences is an artifact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.ablation.opened_runs import BASELINE_TAG, AblationRuns, Key
from pipeline.ablation.parts import AblationReport, CellRow, Replicate
from pipeline.ablation.spec import Metric
from pipeline.dag import Node, stored
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outcome import outcome_of
from pipeline.recording.runs import (
    CHOSEN_TAG,
    ENDS,
    FRONT_TAG,
    NOTE_TAG,
    as_csv,
    ending_tags,
    log_training,
    record_evaluation,
)
from pipeline.recording.scores import headline
from pipeline.results import Result
from pipeline.storage import open_storage
from pipeline.tracking.outages import ask_for
from pipeline.tracking.registry import ChosenPoint, register
from pipeline.tracking.views import LOWEST_FID, save_view

# What of a report the table holds beside its cells.
TABLE = ("title", "created", "revision", "command", "baseline", "seeds", "confidence", "verdict", "equalities")
CHOICE = ("front", "chosen", "why", "sharing")


def record_ablation(
    report: AblationReport,
    tracking_uri: str,
    *,
    experiment: Experiment,
    page: str,
    identity: str,
    replicates: Mapping[Key, Experiment],
) -> str:
    """Write what ``report`` holds and register the chosen cell's weights; the id of the ablation's run.

    ``replicates`` are the experiments of those that finished, with what their searches chose; their trainings are
    stored. A replicate that is still to come is left open.
    """
    from pipeline.ablation.report import figure_files

    runs = AblationRuns.of(experiment, ask_for(tracking_uri), identity, report.baseline)
    recorded = _Recorded(report, runs, replicates)
    trials = recorded.trials()
    for tag, cells in ((CHOSEN_TAG, [report.chosen]), (FRONT_TAG, report.front), (BASELINE_TAG, [report.baseline])):
        kept = [run for (cell, _), run in trials.items() if cell in cells]
        runs.tracker.keep_tag(runs.opened, runs.parent, tag, kept)
    recorded.record_parent()
    shown = [{"cell": cell, "seed": seed, **recorded.params[cell]} for cell, seed in trials]
    save_view(
        runs.tracker, runs.opened, runs.parent, key="rayfall-ablation", name="Ablation", trials=shown, best=LOWEST_FID
    )
    runs.tracker.log_text(runs.parent, page, "report.html")
    for name, svg in figure_files(report).items():
        runs.tracker.log_text(runs.parent, svg, f"figures/{name}")
    _register(recorded, trials)
    if not any(cell.missing for cell in report.cells):
        runs.tracker.finish(runs.parent, keep_end=not recorded.ended)
    return runs.parent


class _Recorded:
    """The report's cells on their way to the runs. ``ended`` are those runs of replicates that were open until now."""

    def __init__(self, report: AblationReport, runs: AblationRuns, replicates: Mapping[Key, Experiment]) -> None:
        self.report, self.runs, self.replicates = report, runs, replicates
        self.params = runs.params_of({cell.name: cell.settings for cell in report.cells})
        self.storage = open_storage(runs.experiment.store)
        self.nodes = {key: Nodes(one) for key, one in replicates.items()}
        every = [(nodes, name) for nodes in self.nodes.values() for name in nodes.experiment.names]
        self.uses = Counter(node.digest for nodes, name in every for node in (nodes.train(name), _scores(nodes, name)))
        self.done: set[str] = set()
        self.ended: list[str] = []

    def trials(self) -> dict[Key, str]:
        """Write every replicate that there is something of; their runs."""
        return {
            (cell.name, one.seed): self._trial(cell, one)
            for cell in self.report.cells
            for one in cell.replicates
            if one.status != "missing"  # an ablation is recorded while it goes on, too
        }

    def _trial(self, cell: CellRow, one: Replicate) -> str:
        tracker, report = self.runs.tracker, self.report
        marks = {CHOSEN_TAG: cell.name == report.chosen, FRONT_TAG: cell.name in report.front}
        tags = ending_tags(one.status, one.error) | {tag: "true" for tag, has in marks.items() if has}
        run = self.runs.trial(cell.name, one.seed, cell.settings, self.params[cell.name], tags)
        if one.status == "finished":
            for name, (node, found) in self.trained((cell.name, one.seed)).items():
                self._training(run, self.nodes[cell.name, one.seed], name, node, found)
            self._evaluations(run, self.nodes[cell.name, one.seed])
        figures = headline(_by_kind(one)) if one.status == "finished" else {}
        seconds = {"seconds": one.seconds, "training_seconds": one.training_seconds, "level": one.level}
        seconds |= {"start_seconds": one.start_seconds, "device_seconds": one.device_seconds}
        figures |= {name: value for name, value in seconds.items() if value is not None}
        tracker.log_figures(run, figures)
        if tracker.client.get_run(run).info.status == "RUNNING":
            self.ended.append(run)
        tracker.finish(run, ENDS[one.status], seconds=one.seconds or None, keep_end=True)
        return run

    def trained(self, key: Key) -> dict[str, tuple[Node, Result]]:
        """The trainings of a replicate that finished, by stage."""
        nodes, found = self.nodes[key], {}
        for name in nodes.experiment.names:
            result = stored(node := nodes.train(name), self.storage)
            assert result is not None, f"{node.key} is not stored, of a replicate that finished"
            found[name] = node, result
        return found

    def _training(self, trial: str, nodes: Nodes, stage: str, node: Node, found: Result) -> None:
        key = self.runs.training_key(node)
        if key in self.done:
            return
        self.done.add(key)
        shared = self.uses[node.digest] > 1
        run = self.runs.tracker.known(self.runs.opened, key) or self.runs.training(
            trial, nodes.experiment, stage, node, shared=shared, found=found
        )
        log_training(self.runs.tracker, run, found)

    def _evaluations(self, trial: str, nodes: Nodes) -> None:
        """A run for each stage: what is shared moves below the ablation once another replicate has come to it."""
        outcome = outcome_of(nodes.experiment, self.storage)
        for name in nodes.experiment.names:
            digest = _scores(nodes, name).digest
            if digest not in self.done:
                self.done.add(digest)
                root = self.runs.parent
                parent = root if self.uses[digest] > 1 else trial
                record_evaluation(self.runs.tracker, self.runs.opened, outcome, name, root=root, parent=parent)

    def record_parent(self) -> None:
        """The ablation's own run: few metrics, tables as artifacts, and what was found as its description."""
        report, tracker, run = self.report, self.runs.tracker, self.runs.parent
        every = [one for cell in report.cells for one in cell.replicates]
        figures = {
            "best_chained_fid": report.cell(report.chosen).mean("chained_fid") if report.chosen else None,
            "cells": len(report.cells),
            "replicates_finished": sum(one.status == "finished" for one in every),
            "replicates_failed": sum(one.status == "failed" for one in every),
            "replicates_to_come": sum(one.status == "missing" for one in every),
            "device_seconds": report.sharing.spent_seconds,
            "saved_device_seconds": report.sharing.saved_seconds,
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
                "device_seconds": one.device_seconds,
                "error": one.error or "",
            }
            for cell in self.report.cells
            for one in cell.replicates
        ]


def _by_kind(scored: Replicate) -> dict[str, dict[str, Any]]:
    """Scores as their nodes summed them up, by kind of images."""
    found = {"chained": scored.chained, "oracle": scored.oracle}
    return {kind: one.model_dump(mode="json") for kind, one in found.items() if one is not None}


def _scores(nodes: Nodes, stage: str) -> Node:
    """What stands for the evaluation of a stage: it is found again by these, whatever is read out of them."""
    return nodes.scores("chained", stage)


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


def _register(recorded: _Recorded, trials: Mapping[Key, str]) -> None:
    """Register the chosen cell under the first seed that finished: the best seed's scores would be too good."""
    report, runs = recorded.report, recorded.runs
    if report.chosen is None:
        return
    cell = report.cell(report.chosen)
    one = cell.finished[0]
    key = cell.name, one.seed
    experiment, trained = recorded.replicates[key], recorded.trained(key)
    chain = experiment.chain(report.stage)
    point = ChosenPoint(
        weights={name: trained[name][1].address for name in chain},
        sampling={name: experiment.stages[name].sampling.model_dump(mode="json") for name in chain},
        settings=cell.settings,
        scores=headline(_by_kind(one)),
    )
    means = {f"mean.{metric}": repr(mean) for metric in report.metrics if (mean := cell.mean(metric)) is not None}
    tags = {"rayfall.cell": cell.name, "rayfall.seed": str(one.seed), **means}
    register(runs.tracker, runs.experiment.name, point, run=trials[key], tags=tags)
