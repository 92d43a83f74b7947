"""One command at work on one experiment: its store, Ray from the first need of it on, its runs in MLflow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.dag import Node, missing
from pipeline.errors import UserError
from pipeline.events import Events
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outcome import Outcome, outcome_of
from pipeline.results import Result
from pipeline.storage import open_storage
from pipeline.tracking.addresses import SQLITE, sqlite_among, tracking_uri
from pipeline.trained_nodes import Tracking

if TYPE_CHECKING:
    from pipeline.recording.experiment import ExperimentRuns


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


@contextmanager
def at_work(experiment: Experiment, what: str) -> Iterator[None]:
    """Be the only command that works on the experiment as ``what``, an experiment or an ablation. Raises Claimed."""
    from pipeline.claims import claimed

    def refused(owner: str) -> str:
        return f"{experiment.name} is at work already, by {owner}; wait for it, or end it and give this command again"

    with claimed(open_storage(experiment.store), claim_of(experiment, what), refused=refused):
        yield


def claim_of(experiment: Experiment, what: str) -> str:
    """What the claim of a command is called that works on the experiment as ``what``."""
    from pipeline.recording.identity import declared_identity

    return f"{what}-{declared_identity(experiment)[:16]}"


def _import_tracking() -> None:
    """Import what opens runs: seconds, in which Ray's processes start. Whoever needs it imports it again."""
    with suppress(Exception):  # and is told there what is wrong with it
        import mlflow.store.tracking.sqlalchemy_store
        import mlflow.tracking  # noqa: F401


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
            if self.runs is not None and (loss := self.runs.loss()) is not None:
                self.journal.message(loss)

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
            from pipeline.cluster import node_count, ray_cluster

            if self.experiment.resources.address is None:
                self._check_compiler()
            self.journal.message("starting Ray")
            self.stack.enter_context(ray_cluster(self.experiment.resources.address))
            self.on_ray = True
            if told := sqlite_among(node_count(), tracking_uri(self.experiment)):
                self.journal.message(told)

    def _check_compiler(self) -> None:
        """Raise UserError where nets are to be compiled on this machine, and cannot be: not after hours of training."""
        from stages.compilers import CannotCompile, check_compiler

        resources = self.experiment.resources
        for name in ("compile", "compiled_sampling"):
            if getattr(resources, name):
                try:
                    check_compiler()
                except CannotCompile as error:
                    raise UserError(f"resources.{name}: {error}") from error

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

    def begin(self, stages: Sequence[str]) -> ExperimentRuns:
        """``track``. Where one of ``stages`` is to be trained, Ray is started first, and MLflow imported meanwhile.

        Not where a server may turn out to be the wrong one, which is told before anything starts; and not for a cluster
        elsewhere, which is joined at once.
        """
        nodes = Nodes(self.experiment)
        here = self.experiment.resources.address is None and tracking_uri(self.experiment).startswith(SQLITE)
        if here and missing([nodes.train(name) for name in stages], self.storage):
            threading.Thread(target=_import_tracking, name="imports").start()
            self.start_ray()
        return self.track(stages)

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
