"""Whether every node of the cluster has what the driver has: with another torch there a node gives other numbers.

Each node is asked once, by a task of no CPU, when a graph first runs and as soon as it joins: spot nodes come and go.
The driver's own node is not asked, so a run on one machine asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import UserError
from pipeline.submission.environment import ABSENT, versions


@dataclass
class Alike:
    """What the nodes answered that were asked so far. Ray must be initialised."""

    here: Mapping[str, str] = field(default_factory=versions)
    known: set[str] = field(default_factory=set)  # nodes that need not be asked
    asked: dict[Any, str] = field(default_factory=dict)  # by the answer that is awaited: the node's address

    def look(self) -> None:
        """Ask nodes that are new and read what came; never waits. Raises UserError for one that is unlike."""
        import ray

        self.known = self.known or {ray.get_runtime_context().get_node_id()}
        for node in ray.nodes():
            if node["Alive"] and node["NodeID"] not in self.known:
                self.known.add(node["NodeID"])
                self.asked[_ask(node["NodeID"])] = node["NodeManagerAddress"]
        if not self.asked:
            return
        ready, _ = ray.wait(list(self.asked), num_returns=len(self.asked), timeout=0)
        for answer in ready:
            address = self.asked.pop(answer)
            try:
                there = ray.get(answer)
            except ray.exceptions.RayError:  # it went away, or cannot run a task: then ours fail there and say why
                continue
            if (told := unlike(address, there, self.here)) is not None:
                raise UserError(told)


def unlike(address: str, there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """One sentence on how the node at ``address`` differs; None where it does not."""
    pairs = [(name, there.get(name, ABSENT), given) for name, given in here.items()]
    found = [f"{name} {other} where the driver has {given}" for name, other, given in pairs if other != given]
    if not found:
        return None
    more = f" and {len(found) - 3} others" if len(found) > 3 else ""
    return (
        f"node {address} has {', '.join(found[:3])}{more}: install constraints.txt on every node (docs/cluster.md, "
        "Environment)"
    )


def _ask(node: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    remote: Any = ray.remote(versions)
    return remote.options(num_cpus=0, max_retries=0, scheduling_strategy=there, name="versions").remote()
