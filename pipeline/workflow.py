"""What the commands do: plan, run, sample, report. Heavy libraries are imported only where they are needed.

``run`` goes through the experiment in the order data, training (all stages at once), search, evaluation with the
settings the search chose, tracking, report. Each goal is the target of the graph up to that point; what is stored
already is not computed again, and when nothing is missing Ray is not even started.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.addresses import without_secret
from pipeline.dag import ancestry, missing, stored
from pipeline.errors import UserError
from pipeline.events import Events
from pipeline.experiment_spec import Experiment
from pipeline.outcome import Outcome, figures_of, outcome_of, targets_of
from pipeline.outputs import check_file, keep_report
from pipeline.session import Session, at_work
from pipeline.storage import open_storage
from pipeline.tracking.addresses import tracking_uri

if TYPE_CHECKING:
    from pipeline.recording.experiment import ExperimentRuns

Goal = Literal["data", "train", "search", "evaluate", "report"]
GOALS: tuple[Goal, ...] = ("data", "train", "search", "evaluate", "report")
COMMAND = "rayfall run"  # where nobody says of which file


@dataclass(frozen=True)
class PlannedNode:
    """One node of the graph as a dry run shows it."""

    name: str
    digest: str
    inputs: tuple[str, ...]
    reused: bool
    seconds: float | None  # what the stored result took


def plan(experiment: Experiment) -> list[PlannedNode]:
    """The graph of the experiment, inputs first, and what of it is stored.

    Evaluation is planned with the settings of the search where its result is stored, else with those of the YAML.
    """
    storage = open_storage(experiment.store)
    planned = []
    for node in ancestry(targets_of(experiment, storage)):
        result = stored(node, storage)
        inputs = tuple(sorted({parent.name for parent in node.inputs.values()}))
        seconds = result.seconds if result else None
        planned.append(PlannedNode(node.name, node.digest, inputs, result is not None, seconds))
    return planned


def run(
    experiment: Experiment, goal: Goal, *, events: Events, only: Sequence[str] = (), command: str = COMMAND
) -> dict[str, Any]:
    """Bring the experiment to ``goal`` and return its figures as plain JSON values. "report" is everything.

    ``command`` is what the report says that it was made by.
    """
    started = time.time()
    if goal == "search" and experiment.search is None:
        raise UserError(f"experiment {experiment.name} has no search section; add one to search")
    if unknown := [name for name in only if name not in experiment.stages]:
        raise UserError(f"there is no stage {unknown[0]!r}; stages are {', '.join(experiment.names)}")
    tracking_uri(experiment)  # a mistake in it is told before anything is taken or started
    with at_work(experiment, "experiment"), Session(experiment, events) as session:
        if goal == "data":
            return {"data": dict(session.execute([session.nodes.data])["data"].summary)}
        runs = session.begin((only or experiment.names) if goal == "train" else session.declared)
        if goal == "train":
            return {"stages": session.train(only), "seconds": time.time() - started}
        if goal == "search":
            found = session.search()
            assert found is not None, "there is a search section"
            with runs.outage.tolerated():
                runs.record(outcome_of(experiment, session.storage))
            return {"search": dict(found.summary), "seconds": time.time() - started}
        outcome = session.evaluate()
        evaluations: dict[str, str] | None = None
        with runs.outage.tolerated():
            evaluations = runs.record(outcome)
        figures = figures_of(outcome) | {"computed": sorted(session.journal.computed)}
        if outcome.search is not None:
            figures["search"] = dict(outcome.search.summary)
        if goal == "report":
            figures |= publish(session, runs, outcome, evaluations, command)
        return figures | {"seconds": time.time() - started}


def publish(
    session: Session, runs: ExperimentRuns, outcome: Outcome, evaluations: Mapping[str, str] | None, command: str
) -> dict[str, Any]:
    """Write the report, to MLflow too (``evaluations``: the runs there by stage, None where it does not answer);
    returns where both are."""
    from pipeline.collecting.experiment import collect
    from pipeline.report.writing import render

    report = collect(outcome, session.journal.computed, created=time.time(), command=command)
    page = render(report)
    place = keep_report(session.storage, f"reports/{session.experiment.name}/report.html", page)
    if evaluations is not None:
        with runs.outage.tolerated():
            runs.record_report(report, page, evaluations)
    return {"report": place, "tracking": without_secret(runs.tracking.uri)}


def make_report(experiment: Experiment, *, path: Path | None, command: str = COMMAND) -> dict[str, Any]:
    """Write the report from what the store holds. Raises UserError where scores are missing or ``path`` is no file."""
    from pipeline.collecting.experiment import collect
    from pipeline.report.writing import render

    check_file(path)
    storage = open_storage(experiment.store)
    targets = targets_of(experiment, storage)
    if absent := missing(targets, storage):
        raise UserError(
            f"the results of {experiment.name} are not all in {storage.address}: {absent[0].name} and "
            f"{len(absent) - 1} more are missing; run `rayfall run` first"
        )
    outcome = outcome_of(experiment, storage)
    report = collect(outcome, set(), created=time.time(), command=command)
    written = keep_report(storage, f"reports/{experiment.name}/report.html", render(report), path)
    return figures_of(outcome) | {"report": written}
