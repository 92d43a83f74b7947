"""What nodes that are to be computed will take, by those of their kind that were: for a budget. Computes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.dag import Node
from pipeline.sweep.sharing import Costs, counted_alone, net_calls


@dataclass
class Reckoning:
    """Of drawing by the calls of the net, of scoring by how often; ``look`` is the samples of a first look, which draws
    of all samples take over. A kind is what draws or scores a stage: an oracle takes what the chain does where none is
    known. What nothing is known of takes nothing."""

    costs: Costs
    look: int | None = None

    def seconds(self, nodes: Iterable[Node], computed: Iterable[Node]) -> float:
        """Of all ``nodes`` together, each counted once and whole, by what those in ``computed`` took.

        One of those that was removed meanwhile says nothing.
        """
        took, work = defaultdict[str, float](float), defaultdict[str, float](float)
        for node in {node.digest: node for node in counted_alone(computed)}.values():
            if seconds := self.costs.of([node]):
                took[node.name] += seconds
                work[node.name] += self._work(node)
        todo = {node.digest: node for node in counted_alone(nodes)}
        found = 0.0
        for node in todo.values():
            name = node.name if node.name in took else node.name.replace("oracle/", "chained/")
            found += self._work(node) * took[name] / work[name] if name in took else 0.0
        return found

    def _work(self, node: Node) -> float:
        if "sampling" not in node.config:
            return 1.0
        taken = self.look if self.look is not None and "earlier" in node.context else 0
        return float((node.config["count"] - taken) * net_calls(node))
