"""What the commands do: plan, run, sample, report. Heavy libraries are imported only where they are needed.

``run`` goes through the experiment in the order data, training (all stages at once), search, evaluation with the
settings the search chose, tracking, report. Each goal is the target of the graph up to that point; what is stored
already is not computed again, and when nothing is missing Ray is not even started.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.addresses import without_secret
from pipeline.dag import Node, Result, ancestry, missing, stored
from pipeline.errors import UserError
from pipeline.events import Events
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outcome import Outcome, figures_of, outcome_of, targets_of
from pipeline.outputs import check_file, users_choice, write_whole
from pipeline.storage import open_storage
from pipeline.trained_nodes import Tracking

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
        self.runs: ExperimentRuns | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        try:
            self.stack.close()
        finally:  # also where Ray's end is interrupted, or fails
            if self.runs is not None and error is not None:
                self.runs.close_after(error)
            elif self.runs is not None:
                self.runs.close("FINISHED", computed=bool(self.journal.computed))

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

    def track(self, stages: Sequence[str]) -> ExperimentRuns:
        """Open the MLflow runs, with those of ``stages``, which are trained as declared; they end with the session."""
        from pipeline.recording.experiment import ExperimentRuns

        self.runs = ExperimentRuns.open(self.experiment, tracking_uri(self.experiment), stages)
        return self.runs

    @property
    def tracking(self) -> Tracking | None:
        return None if self.runs is None else self.runs.tracking

    @property
    def nodes(self) -> Nodes:
        return Nodes(self.experiment, tracking=self.tracking)

    def train(self, only: Sequence[str]) -> dict[str, Any]:
        """Train the stages (``only`` some): their jobs run at the same time where the resources allow."""
        names = only or self.experiment.names
        results = self.execute([self.nodes.train(name) for name in names])
        return {name.removeprefix("train/"): dict(result.summary) for name, result in results.items()}

    def search(self) -> Result | None:
        """The result of the search section, None without one. All stages that it does not train train at once."""
        if self.experiment.search is None:
            return None
        nodes = self.nodes
        return self.execute([*map(nodes.train, self.declared), nodes.search()])["search"]

    @property
    def declared(self) -> list[str]:
        """The stages that are trained as they are declared, where the search is done: not by the search itself."""
        searched = self.nodes.searched_trainings
        return [name for name in self.experiment.names if name not in searched]

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
    if unknown := [name for name in only if name not in experiment.stages]:
        raise UserError(f"there is no stage {unknown[0]!r}; stages are {', '.join(experiment.names)}")
    with Session(experiment, events) as session:
        if goal == "data":
            return {"data": dict(session.execute([session.nodes.data])["data"].summary)}
        runs = session.track((only or experiment.names) if goal == "train" else session.declared)
        if goal == "train":
            return {"stages": session.train(only), "seconds": time.time() - started}
        if goal == "search":
            found = session.search()
            assert found is not None, "there is a search section"
            runs.record(outcome_of(experiment, session.storage))
            return {"search": dict(found.summary), "seconds": time.time() - started}
        outcome = session.evaluate()
        evaluations = runs.record(outcome)
        figures = figures_of(outcome) | {"computed": sorted(session.journal.computed)}
        if outcome.search is not None:
            figures["search"] = dict(outcome.search.summary)
        if goal == "report":
            figures |= publish(session, runs, outcome, evaluations, command)
        return figures | {"seconds": time.time() - started}


def publish(
    session: Session, runs: ExperimentRuns, outcome: Outcome, evaluations: Mapping[str, str], command: str
) -> dict[str, Any]:
    """Write the report, to MLflow too (``evaluations``: the runs there by stage); returns where both are."""
    from pipeline.collecting.experiment import collect
    from pipeline.report.writing import render

    report = collect(outcome, session.journal.computed, created=time.time(), command=command)
    path = write_whole(session.storage.path(f"reports/{session.experiment.name}/report.html"), render(report))
    runs.record_report(report, path, evaluations)
    return {"report": str(path), "tracking": without_secret(runs.tracking.uri)}


def make_report(experiment: Experiment, *, path: Path | None, command: str = COMMAND) -> dict[str, Any]:
    """Write the report from what the store holds. Raises UserError where scores are missing or ``path`` is no file."""
    from pipeline.collecting.experiment import collect
    from pipeline.report.writing import render

    check_file(path)
    storage = open_storage(experiment.store)
    targets = targets_of(experiment, storage)
    if absent := missing(targets, storage):
        raise UserError(
            f"the results of {experiment.name} are not all in {storage.root}: {absent[0].name} and "
            f"{len(absent) - 1} more are missing; run `rayfall run` first"
        )
    outcome = outcome_of(experiment, storage)
    report = collect(outcome, set(), created=time.time(), command=command)
    page = render(report)
    with users_choice(path):
        written = write_whole(path or storage.path(f"reports/{experiment.name}/report.html"), page)
    return figures_of(outcome) | {"report": str(written)}
