"""Running an ablation: the graphs of all its replicates, in one store, so that what they share is computed once.

Seed by seed: train what the cells differ in, and score those that do not search meanwhile; search; score the others. A
replicate that fails is left out of what follows and shown as failed; the others go on. Nothing here remembers what is
done: that is the graph's. So the same command after a kill, a new cell or a new seed computes only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.ablation.cells import Replicate, ablation_of, replicates_of
from pipeline.ablation.failures import Failures
from pipeline.dag import Node, ancestry, missing, stored
from pipeline.experiment import digest_of, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.storage import Storage, open_storage
from pipeline.trained_nodes import Tracking

if TYPE_CHECKING:
    from pipeline.session import Session

SEARCHES_AT_ONCE = 1  # each has workers of its own for its trials


@dataclass(eq=False)
class Cell:
    """A replicate on its way: what it computes, and why it came no further."""

    replicate: Replicate
    storage: Storage
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
    def declared(self) -> Nodes:
        """As the YAML says, before any search."""
        return Nodes(self.replicate.experiment, tracking=self.tracking)

    @property
    def identity(self) -> str:
        """The replicate by what it computes: the name of a cell may come to mean something else."""
        nodes = [*self.trainings(), *self.searches(), *self.declared.evaluation()]
        return f"{self.replicate.name} {digest_of([node.digest for node in nodes])[:16]}"

    def before_search(self) -> list[Node]:
        """What waits for no search: a cell without one is scored while the last others still train."""
        return self.trainings() if self.searches() else self.targets()

    def trainings(self) -> list[Node]:
        nodes = self.declared
        return [nodes.train(name) for name in nodes.experiment.names if name not in nodes.searched_trainings]

    def searches(self) -> list[Node]:
        """Its search, under the name of the replicate, so that it has a budget and a count of trials of its own."""
        experiment = self.replicate.experiment
        if experiment.search is None:
            return []
        named = experiment.model_copy(update={"name": self.replicate.own_name})
        return [Nodes(named, tracking=self.tracking).search()]

    def scores(self) -> list[Node]:
        return Nodes(self.experiment, tracking=self.tracking).evaluation()

    def targets(self) -> list[Node]:
        """All that this replicate comes to; of the scores those that its search asks for, once that is stored."""
        return [*self.trainings(), *self.searches(), *self.scores()]

    def known_targets(self) -> list[Node]:
        """As ``targets``, without scores that its search has not chosen yet."""
        searches = self.searches()
        return [*self.trainings(), *searches] if missing(searches, self.storage) else self.targets()

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
        known = Failures(storage, experiment.name).known()
        cells = []
        for replicate in replicates_of(experiment):
            cell = Cell(replicate, storage)
            if not cell.finished():
                cell.failure = known.get(cell.identity)
            cells.append(cell)
        return cls(experiment, cells)

    @property
    def storage(self) -> Storage:
        return self.cells[0].storage

    @property
    def failures(self) -> Failures:
        return Failures(self.storage, self.experiment.name)

    def compute(self, session: Session) -> Iterator[list[Cell]]:
        """Compute what is missing; yields the cells of a batch of seeds whenever all of it is done.

        What failed is tried again: until its batch comes it is one that is still to come here, and stays known as
        failed in the store.
        """
        for cell in self.cells:
            cell.failure = None
        for batch in self.batches():
            with self._watched(session, batch) as beside:
                self._attempt(session, batch, "before_search", beside)
                for phase in ("searches", "scores"):
                    self._attempt(session, [cell for cell in batch if cell.failure is None], phase)
            self.failures.remember({cell.identity: cell.failure for cell in batch})
            yield batch

    @contextmanager
    def _watched(self, session: Session, batch: Sequence[Cell]) -> Iterator[list[Node]]:
        """While the block runs, have what it trains scored if that is asked for; gives what must be computed beside.

        A training that several cells share is scored once, as the first of them samples. Scores of last steps have all
        of the block to be drawn, so that the next trainings hardly wait for them.
        """
        watched = watched_by(batch) if self.experiment.evaluation.during is not None else {}
        if not watched:
            yield []
            return
        from pipeline.watching.together import Together

        session.start_ray()
        named = {cell.replicate.name: (cell.declared, stages) for cell, stages in watched.items()}
        with Together(named, self.storage, session.journal.message) as watch:
            yield watch.targets

    def batches(self) -> Iterator[list[Cell]]:
        """As many seeds together as it takes to train as many stages at once as may be; where none is to be trained,
        each seed of which anything is missing by itself."""
        together: list[Cell] = []
        for seed in ablation_of(self.experiment).seeds:
            together += [cell for cell in self.cells if cell.replicate.seed == seed]
            absent = {node.digest: node.name for cell in together for node in missing(cell.trainings(), self.storage)}
            trainings = [name for name in absent.values() if name.startswith("train/")]
            drawn_alone = not trainings and not all(cell.finished() for cell in together)
            if drawn_alone or len(trainings) >= ablation_of(self.experiment).concurrency:
                yield together
                together = []
        if together:
            yield together

    def _attempt(self, session: Session, cells: Sequence[Cell], phase: str, beside: Sequence[Node] = ()) -> None:
        from pipeline.execution import attempt

        targets = {cell.replicate.name: getattr(cell, phase)() for cell in cells}
        wanted = [*beside, *(node for nodes in targets.values() for node in nodes)]
        wanted.sort(key=lambda node: not node.name.startswith("train/"))  # the longest begin first
        if not missing(wanted, self.storage):
            return
        session.start_ray()
        failed = attempt(
            wanted,
            self.storage,
            session.journal,
            at_once={"train": ablation_of(self.experiment).concurrency, "search": SEARCHES_AT_ONCE},
            called=labels_of({cell.replicate: cell.known_targets() for cell in self.cells}),
            traces=self.failures.traces,
        )
        for cell in cells:
            lost = [failed[node.digest] for node in ancestry(targets[cell.replicate.name]) if node.digest in failed]
            cell.failure = lost[0] if lost else None


def watched_by(cells: Sequence[Cell]) -> dict[Cell, list[str]]:
    """The stages still to be trained, each training once: under the first of ``cells`` that asks for it."""
    found: dict[Cell, list[str]] = {}
    taken: set[str] = set()
    for cell in cells:
        absent = {node.digest for node in missing(cell.trainings(), cell.storage)} - taken
        mine = {name: cell.declared.train(name).digest for name in cell.replicate.experiment.names}
        if stages := [name for name, digest in mine.items() if digest in absent]:
            found[cell] = stages
        taken |= set(mine.values())
    return found


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
