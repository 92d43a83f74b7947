"""Running an ablation: the graphs of all its replicates, in one store, so that what they share is computed once.

Seed by seed: train what the cells differ in, search where they search, score. A replicate that fails is left out of
what follows and shown as failed; the others go on. Nothing here remembers what is done: that is the graph's. So the
same command after a kill, a new cell or a new seed computes only what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.ablation.cells import Replicate, ablation_of, replicates_of
from pipeline.dag import Node, ancestry, missing, stored
from pipeline.experiment import digest_of, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.storage import LocalStorage, open_storage
from pipeline.trained_nodes import Tracking

if TYPE_CHECKING:
    from pipeline.workflow import Session

SEARCHES_AT_ONCE = 1  # each has workers of its own for its trials


@dataclass
class Cell:
    """A replicate on its way: what it computes, and why it came no further."""

    replicate: Replicate
    storage: LocalStorage
    tracking: Tracking | None = None
    failure: str | None = None

    @property
    def experiment(self) -> Experiment:
        """With the settings that its search chose, where it has one and that is stored."""
        declared = self.replicate.experiment
        if declared.search is None or (found := stored(Nodes(declared).search(), self.storage)) is None:
            return declared
        return with_settings(declared, found.summary["chosen"])

    @property
    def _declared(self) -> Nodes:
        return Nodes(self.replicate.experiment, tracking=self.tracking)

    def trainings(self) -> list[Node]:
        return [self._declared.train(name) for name in self.replicate.experiment.names]

    def searches(self) -> list[Node]:
        return [] if self.replicate.experiment.search is None else [self._declared.search()]

    def scores(self) -> list[Node]:
        return Nodes(self.experiment, tracking=self.tracking).evaluation()

    def targets(self) -> list[Node]:
        """All that this replicate comes to; of the scores those that its search asks for, once that is stored."""
        return [*self.trainings(), *self.searches(), *self.scores()]

    def weights(self) -> dict[str, Path]:
        """The results of its trainings by stage; they must be stored."""
        found = {name: stored(self._declared.train(name), self.storage) for name in self.replicate.experiment.names}
        return {name: result.folder for name, result in found.items() if result is not None}

    def finished(self) -> bool:
        return not missing(self.targets(), self.storage)


@dataclass
class Ablation:
    """All replicates of an experiment in its store."""

    experiment: Experiment
    cells: list[Cell] = field(default_factory=list)

    @classmethod
    def of(cls, experiment: Experiment) -> Ablation:
        """Raises UserError for an experiment without an ablation. Failures of an earlier run are remembered."""
        storage = open_storage(experiment.store)
        known = _failures(experiment, storage)
        cells = []
        for replicate in replicates_of(experiment):
            cell = Cell(replicate, storage)
            if not cell.finished():
                cell.failure = known.get(_key(replicate))
            cells.append(cell)
        return cls(experiment, cells)

    @property
    def storage(self) -> LocalStorage:
        return self.cells[0].storage

    def compute(self, session: Session) -> Iterator[list[Cell]]:
        """Compute what is missing; yields the cells of a batch of seeds whenever all of it is done."""
        for cell in self.cells:
            cell.failure = None  # what failed is tried again
        for batch in self._batches():
            for phase in ("trainings", "searches", "scores"):
                self._attempt(session, [cell for cell in batch if cell.failure is None], phase)
            self._remember_failures()
            yield batch

    def _batches(self) -> Iterator[list[Cell]]:
        """As many seeds together as it takes to train as many stages at once as may be."""
        together: list[Cell] = []
        for seed in ablation_of(self.experiment).seeds:
            together += [cell for cell in self.cells if cell.replicate.seed == seed]
            trainings = {node.digest for cell in together for node in missing(cell.trainings(), self.storage)}
            if len(trainings) >= ablation_of(self.experiment).concurrency:
                yield together
                together = []
        if together:
            yield together

    def _attempt(self, session: Session, cells: Sequence[Cell], phase: str) -> None:
        from pipeline.execution import attempt

        targets = {cell.replicate.name: getattr(cell, phase)() for cell in cells}
        wanted = [node for nodes in targets.values() for node in nodes]
        if not missing(wanted, self.storage):
            return
        session.start_ray()
        failed = attempt(
            wanted,
            self.storage,
            session.journal,
            at_once={"train": ablation_of(self.experiment).concurrency, "search": SEARCHES_AT_ONCE},
            called=labels_of({cell.replicate: cell.targets() for cell in self.cells}),
        )
        for cell in cells:
            lost = [failed[node.digest] for node in ancestry(targets[cell.replicate.name]) if node.digest in failed]
            cell.failure = lost[0] if lost else None

    def _remember_failures(self) -> None:
        """For a report that is written later. What other cells of this store failed with stays."""
        known = _failures(self.experiment, self.storage)
        for cell in self.cells:
            known.pop(_key(cell.replicate), None)
            if cell.failure is not None:
                known[_key(cell.replicate)] = cell.failure
        path = self.storage.path(_failures_file(self.experiment))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(path)


def _key(replicate: Replicate) -> str:
    """What a failure is remembered by: the name of a cell may come to mean something else."""
    return f"{replicate.name} {digest_of(replicate.settings)[:16]}"


def labels_of(targets: Mapping[Replicate, Sequence[Node]]) -> Callable[[Node], str]:
    """What a person calls a node of several graphs: by who needs it, where it is not for several seeds."""
    users: dict[str, list[Replicate]] = {}
    for replicate, nodes in targets.items():
        for node in ancestry(nodes):
            users.setdefault(node.digest, []).append(replicate)

    def called(node: Node) -> str:
        mine = users.get(node.digest, [])
        if len({one.seed for one in mine}) != 1:
            return node.name
        cells = list(dict.fromkeys(one.cell for one in mine))
        told = " and ".join(cells) if len(cells) < 3 else f"{len(cells)} cells"
        return f"seed {mine[0].seed}, {told}: {node.name}"

    return called


def _failures_file(experiment: Experiment) -> str:
    return f"ablations/{experiment.name}/failures.json"


def _failures(experiment: Experiment, storage: LocalStorage) -> dict[str, str]:
    """Why replicates failed when they last ran, by ``_key``."""
    path = storage.path(_failures_file(experiment))
    found: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    return found
