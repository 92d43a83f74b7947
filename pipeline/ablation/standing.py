"""How far an ablation is, read from its store alone: the graphs of all replicates, each node looked at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.ablation.cells import replicates_of
from pipeline.ablation.failures import Failures
from pipeline.ablation.run import Cell, labels_of
from pipeline.dag import ancestry
from pipeline.experiment_spec import Experiment
from pipeline.session import claim_of
from pipeline.standing import Standing, look, store_of


@dataclass(frozen=True)
class ReplicateStanding:
    """One cell under one seed: how many of its nodes are in which state, and why it failed last time.

    Nodes that replicates share are counted in each of them.
    """

    cell: str
    seed: int
    counts: Mapping[str, int]
    failure: str | None


@dataclass(frozen=True)
class AblationStanding:
    """An ablation in its store. Nodes of ``standing`` are called as the log calls them: by the cells that ask."""

    standing: Standing
    replicates: list[ReplicateStanding]

    def figures(self) -> dict[str, Any]:
        """As plain values, for programs."""
        return {**self.standing.figures(), "replicates": [vars(one) for one in self.replicates]}


def ablation_standing(experiment: Experiment) -> AblationStanding:
    """How far the ablation of ``experiment`` is. Raises UserError where its store or its data cannot be read.

    Scores of a replicate whose search is still to come are those of the settings of the YAML.
    """
    storage = store_of(experiment)
    cells = [Cell(replicate, storage) for replicate in replicates_of(experiment)]
    targets = {cell.replicate: cell.targets() for cell in cells}
    wanted = [node for nodes in targets.values() for node in nodes]
    found = look(wanted, storage, claim_of(experiment, "ablation"))
    known, called = Failures(storage, experiment.name).known(), labels_of(targets)
    graph = {node.digest: node for nodes in targets.values() for node in ancestry(nodes)}
    named = {digest: replace(one, node=called(graph[digest])) for digest, one in found.nodes.items()}
    rows = []
    for cell in cells:
        mine = [found.nodes[n.digest] for n in ancestry(targets[cell.replicate]) if n.digest in found.nodes]
        counts = Counter[str](node.state for node in mine)
        finished = counts["done"] == len(mine)
        failure = None if finished or found.owner is not None else known.get(cell.identity)
        rows.append(ReplicateStanding(cell.replicate.cell, cell.replicate.seed, dict(counts), failure))
    return AblationStanding(replace(found, nodes=named), rows)
