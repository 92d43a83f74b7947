"""What `rayfall ablate` and `rayfall report` do with an ablation: plan, run, publish. Figures as plain JSON values."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.ablation.run import Ablation
from pipeline.addresses import without_secret, without_secrets
from pipeline.dag import ancestry, missing
from pipeline.experiment_spec import Experiment
from pipeline.outputs import check_file, keep_report

if TYPE_CHECKING:
    from pipeline.ablation.opened_runs import OpenedAblation
    from pipeline.ablation.parts import AblationReport
    from pipeline.events import Events

log = logging.getLogger(__name__)


def plan_ablation(experiment: Experiment) -> dict[str, Any]:
    """What is there and what is missing, replicate by replicate. Starts nothing.

    Scores of a replicate whose search is still to come are planned with the settings of the YAML: what it will compute
    is then "estimated". "failed" is why a replicate failed last time; it would be tried again.
    """
    ablation = Ablation.of(experiment)
    known: set[str] = set()
    rows = []
    for cell in ablation.cells:
        nodes = ancestry(cell.targets())
        absent = {node.digest: node.name for node in missing(cell.targets(), cell.storage)}
        new = [name for digest, name in absent.items() if digest not in known]
        known |= set(absent)
        rows.append(
            {
                "cell": cell.replicate.cell,
                "seed": cell.replicate.seed,
                "nodes": len(nodes),
                "to_compute": len(new),
                "shared": len(absent) - len(new),
                "trains": [name.removeprefix("train/") for name in new if name.startswith("train/")],
                "estimated": bool(missing(cell.searches(), cell.storage)),
                "failed": cell.failure,
            }
        )
    return {"experiment": without_secrets(experiment.model_dump(mode="json")), "replicates": rows}


def run_ablation(experiment: Experiment, *, events: Events, command: str, program: Sequence[str]) -> dict[str, Any]:
    """Compute what is missing of every replicate, seed by seed, writing the report whenever seeds are done.

    ``command`` is what the report says that it was made by, ``program`` what the commands of its cells begin with.
    Raises RuntimeError where every replicate failed; some that did are in the figures, under "failed".
    """
    from pipeline.session import Session, at_work
    from pipeline.tracking.addresses import tracking_uri

    started = time.time()
    tracking_uri(experiment)  # a mistake in it is told before anything is taken or started
    ablation = Ablation.of(experiment)
    with (
        at_work(experiment, "ablation"),
        Session(experiment, events) as session,
        tracked(ablation, session.journal.message) as runs,
    ):
        for _ in ablation.compute(session):
            if any(cell.finished() for cell in ablation.cells):
                wall = time.time() - started if session.journal.computed else None
                figures = runs.publish(command, program, wall)
        failed = {cell.replicate.name: cell.failure for cell in ablation.cells if cell.failure is not None}
        if len(failed) == len(ablation.cells):
            name, why = next(iter(failed.items()))
            raise RuntimeError(f"every replicate failed; {name}: {why}")
    return {**figures, "failed": failed, "seconds": time.time() - started}


def report_ablation(
    experiment: Experiment, *, path: Path | None, command: str, program: Sequence[str]
) -> dict[str, Any]:
    """Write the report of what is stored. Raises UserError where nothing is, or ``path`` cannot be written."""
    from pipeline.ablation.collecting import collect_ablation
    from pipeline.ablation.report import render

    check_file(path)
    ablation = Ablation.of(experiment)
    report = collect_ablation(ablation, created=time.time(), command=command, program=program)
    return figures_of(report) | {"report": keep_report(ablation.storage, _report_key(ablation), render(report), path)}


def _report_key(ablation: Ablation) -> str:
    return f"ablations/{ablation.experiment.name}/report.html"


def figures_of(report: AblationReport) -> dict[str, Any]:
    """The table of an ablation: of each cell the mean and spread of its metrics, and its differences."""
    cells = {
        cell.name: {
            "n": len(cell.finished),
            **{metric: cell.mean(metric) for metric in report.metrics},
            "spread": {metric: cell.spread(metric) for metric in report.metrics},
            "differences": {metric: found.model_dump(mode="json") for metric, found in cell.differences.items()},
            "device_seconds": cell.gpu_seconds,
        }
        for cell in report.cells
    }
    return {
        "baseline": report.baseline,
        "cells": cells,
        "verdict": report.verdict,
        "equalities": [claim.sentence for claim in report.equalities],
        "front": report.front,
        "chosen": report.chosen,
        "why": report.why,
        "sharing": report.sharing.model_dump(mode="json"),
    }


@dataclass(frozen=True)
class Tracked:
    """An ablation with its runs in MLflow."""

    ablation: Ablation
    identity: str
    opened: OpenedAblation

    def publish(self, command: str, program: Sequence[str], wall_seconds: float | None) -> dict[str, Any]:
        """Write and record the report of what is there; the figures, and where both are.

        ``wall_seconds`` are what this command took, None of one that found everything.
        """
        from pipeline.ablation.collecting import collect_ablation
        from pipeline.ablation.recording import record_ablation
        from pipeline.ablation.report import render

        ablation = self.ablation
        report = collect_ablation(
            ablation, created=time.time(), command=command, program=program, wall_seconds=wall_seconds
        )
        page = render(report)
        place = keep_report(ablation.storage, _report_key(ablation), page)
        finished = {(cell.replicate.cell, cell.replicate.seed): cell for cell in ablation.cells if cell.finished()}
        with self.opened.outage.tolerated():
            record_ablation(
                report,
                self.opened.uri,
                experiment=ablation.experiment,
                page=page,
                identity=self.identity,
                replicates={key: cell.experiment for key, cell in finished.items()},
            )
        return figures_of(report) | {"report": place, "tracking": without_secret(self.opened.uri)}


@contextmanager
def tracked(ablation: Ablation, say: Callable[[str], None] = log.warning) -> Iterator[Tracked]:
    """Open the runs of ``ablation``, of which its trainings are told; what is open at the end of the block ends too.

    ``say`` is given the line about an MLflow that did not answer meanwhile.
    """
    from pipeline.ablation.opened_runs import OpenedAblation, close_ablation, open_ablation
    from pipeline.recording.identity import declared_identity
    from pipeline.tracking.addresses import absolute_uri, tracking_uri
    from pipeline.tracking.runs import status_of

    experiment = ablation.experiment
    identity = declared_identity(experiment)  # without the cells and seeds: later ones are added to the same runs
    replicates = {(one.cell, one.seed): one.experiment for one in (cell.replicate for cell in ablation.cells)}
    opened = OpenedAblation(absolute_uri(tracking_uri(experiment)), ablation.storage)
    try:
        opened.forwarder.start()
        open_ablation(opened, experiment, replicates, identity=identity)
        for cell in ablation.cells:
            cell.tracking = opened.tracking[cell.replicate.cell, cell.replicate.seed]
        yield Tracked(ablation, identity, opened)
    except BaseException as error:
        try:
            close_ablation(opened, status_of(type(error)))
        except Exception as second:  # told beside what ended the command, not in its place
            log.warning("some runs in MLflow stay open: %s", without_secret(str(second)))
        raise
    close_ablation(opened, "FAILED")  # trainings of replicates that failed: all others ended when they were recorded
    if (loss := opened.loss(str(experiment.store))) is not None:
        say(loss)
