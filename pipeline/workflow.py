"""What the commands do: plan, run, sample, report. Heavy libraries are imported only where they are needed.

``run`` goes through the experiment in the order data, training (all stages at once), search, evaluation with the
settings the search chose, tracking, report. Each goal is the target of the graph up to that point; what is stored
already is not computed again, and when nothing is missing Ray is not even started.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.dag import Node, Result, ancestry, missing, stored
from pipeline.errors import UserError
from pipeline.events import Events
from pipeline.experiment import digest_of, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outcome import Outcome, figures_of, outcome_of, targets_of
from pipeline.storage import open_storage
from pipeline.trained_nodes import Tracking

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


def tracking_uri(experiment: Experiment) -> str:
    """Address of the experiment's MLflow store: its own setting, or an SQLite file in the result store."""
    if experiment.tracking.uri is not None:
        return experiment.tracking.uri
    return f"sqlite:///{(experiment.store.expanduser().resolve() / 'mlflow.db')}"


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


@dataclass
class Journal:
    """Events passed on, and remembered: which nodes were computed in this run, and when it began."""

    events: Events
    computed: set[str] = field(default_factory=set)
    started_at: float = field(default_factory=time.time)

    def started(self, node: str) -> None:
        self.events.started(node)

    def progress(self, node: str, done: int, total: int) -> None:
        self.events.progress(node, done, total)

    def finished(self, node: str, seconds: float, reused: bool) -> None:
        if not reused:
            self.computed.add(node)
        self.events.finished(node, seconds, reused)

    def message(self, text: str) -> None:
        self.events.message(text)


class Session:
    """One command at work on one experiment."""

    def __init__(self, experiment: Experiment, events: Events) -> None:
        self.experiment = experiment
        self.storage = open_storage(experiment.store)
        self.journal = Journal(events)
        self.stack = ExitStack()
        self.on_ray = False
        self.tracking: Tracking | None = None
        self.parent: str | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()
        if self.parent is not None and error[0] is not None:
            from pipeline.recording.experiment import close_runs

            assert self.tracking is not None
            close_runs(self.tracking, self.parent, "FAILED")

    def execute(self, targets: Sequence[Node]) -> dict[str, Result]:
        """Compute what is missing, on Ray (started on first need), and score stages while they train if asked for."""
        from pipeline.execution import execute

        absent = missing(targets, self.storage)
        if absent:
            self.start_ray()
        with self._watched(absent) as beside:
            results = execute([*beside, *targets], self.storage, self.journal, use_ray=True)
        return {node.name: results[node.name] for node in targets}

    def start_ray(self) -> None:
        """Start or join Ray, at the first need of it."""
        if not self.on_ray:
            from pipeline.cluster import ray_cluster

            self.journal.message("starting Ray")
            self.stack.enter_context(ray_cluster(self.experiment.resources.address))
            self.on_ray = True

    @contextmanager
    def _watched(self, absent: Sequence[Node]) -> Iterator[list[Node]]:
        """While stages are trained in the block, have them scored; gives what must be computed beside them for that."""
        names = [node.name.removeprefix("train/") for node in absent if node.name.startswith("train/")]
        if self.experiment.evaluation.during is None or not names:
            yield []
            return
        from pipeline.watching.run import Watch

        with Watch(self.nodes, names, self.storage, self.journal.message) as watch:
            yield watch.targets

    def track(self) -> None:
        """Open the MLflow runs of this experiment: a parent, and one per stage."""
        from pipeline.recording.experiment import open_runs

        # Of what is declared, not of what the search will choose: the same command must find the same runs again. Of
        # settings and not of nodes: those of the evaluation ask for weights files that training does without.
        elsewhere = {"data", "store", "tracking", "resources", "description", "ablation"}
        identity = digest_of([self.experiment.model_dump(mode="json", exclude=elsewhere), self.nodes.data.identity])
        self.parent, self.tracking = open_runs(self.experiment, tracking_uri(self.experiment), identity)

    @property
    def nodes(self) -> Nodes:
        return Nodes(self.experiment, tracking=self.tracking)

    def train(self, only: Sequence[str]) -> dict[str, Any]:
        """Train the stages (``only`` some): their jobs run at the same time where the resources allow."""
        names = only or self.experiment.names
        if unknown := [name for name in names if name not in self.experiment.stages]:
            raise UserError(f"there is no stage {unknown[0]!r}; stages are {', '.join(self.experiment.names)}")
        results = self.execute([self.nodes.train(name) for name in names])
        return {name.removeprefix("train/"): dict(result.summary) for name, result in results.items()}

    def search(self) -> Result | None:
        """The result of the search section, None without one. All stages train at once, also those it does not read."""
        if self.experiment.search is None:
            return None
        nodes = self.nodes
        return self.execute([*map(nodes.train, self.experiment.names), nodes.search()])["search"]

    def evaluate(self) -> Outcome:
        """Search if asked for, then score everything with the chosen settings."""
        found = self.search()
        chosen = with_settings(self.experiment, found.summary["chosen"]) if found else self.experiment
        self.execute(Nodes(chosen, tracking=self.tracking).evaluation())
        return outcome_of(self.experiment, self.storage)


def run(
    experiment: Experiment, goal: Goal, *, events: Events, only: Sequence[str] = (), command: str = COMMAND
) -> dict[str, Any]:
    """Bring the experiment to ``goal`` and return its figures as plain JSON values. "report" is everything.

    ``command`` is what the report says that it was made by.
    """
    started = time.time()
    if goal == "search" and experiment.search is None:
        raise UserError(f"experiment {experiment.name} has no search section; add one to search")
    with Session(experiment, events) as session:
        if goal == "data":
            return {"data": dict(session.execute([session.nodes.data])["data"].summary)}
        session.track()
        if goal == "train":
            return {"stages": session.train(only), "seconds": time.time() - started}
        if goal == "search":
            found = session.search()
            assert found is not None, "there is a search section"
            return {"search": dict(found.summary), "seconds": time.time() - started}
        outcome = session.evaluate()
        figures = figures_of(outcome) | {"computed": sorted(session.journal.computed)}
        if outcome.search is not None:
            figures["search"] = dict(outcome.search.summary)
        if goal == "report":
            figures |= publish(session, outcome, command)
        return figures | {"seconds": time.time() - started}


def publish(session: Session, outcome: Outcome, command: str = COMMAND) -> dict[str, Any]:
    """Record everything in MLflow and write the report; returns where both are."""
    from pipeline.collecting.experiment import collect
    from pipeline.recording.experiment import record
    from pipeline.report.writing import render

    assert session.parent is not None
    assert session.tracking is not None
    report = collect(outcome, session.journal.computed, created=time.time(), command=command)
    path = session.storage.path(f"reports/{session.experiment.name}/report.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(report), encoding="utf-8")
    if session.experiment.evaluation.during is not None:
        from pipeline.watching.run import track_curves

        track_curves(session.nodes, session.storage)
    record(outcome, report, session.tracking, session.parent, path)
    return {"report": str(path), "tracking": session.tracking.uri}


def make_report(experiment: Experiment, *, path: Path | None, command: str = COMMAND) -> dict[str, Any]:
    """Write the report from what the store holds. Raises UserError when the evaluation is not there."""
    from pipeline.collecting.experiment import collect
    from pipeline.report.writing import render

    storage = open_storage(experiment.store)
    targets = targets_of(experiment, storage)
    if absent := missing(targets, storage):
        raise UserError(
            f"the results of {experiment.name} are not all in {storage.root}: {absent[0].name} and "
            f"{len(absent) - 1} more are missing; run `rayfall run` first"
        )
    outcome = outcome_of(experiment, storage)
    report = collect(outcome, set(), created=time.time(), command=command)
    path = path or storage.path(f"reports/{experiment.name}/report.html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(report), encoding="utf-8")
    return figures_of(outcome) | {"report": str(path)}
