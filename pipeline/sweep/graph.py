"""Graphs of nodes on a pool of actors: what several trials need is computed once, whoever asks for it first.

A node is computed as soon as its inputs are stored. Drawing goes to the actors in parts (``pipeline.parts``), so that
the one node that all others wait for keeps all of them busy; whoever finds all parts there puts them together. Knows
nothing of trials; what is committed survives a killed driver, finished parts too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.computing import compute, inputs_of, scratch_of
from pipeline.dag import Node, NodeFailed, Progress, Task, ancestry, missing
from pipeline.parts import PartJob, compute_part, part_jobs
from pipeline.search.earlier_rows import first_row
from pipeline.storage import Storage
from pipeline.sweep.actors import ActorPool, Finished

PARTS = {"pipeline.sampling:draw": "pipeline.sampling:draw_part"}  # what computes one part of a node


@dataclass
class ActorGraph:
    """Nodes wanted of ``pool``, with the reason why of those that failed.

    By digest: ``failed`` has the sentence of every node that failed, or that needs one that did, ``open`` what is
    wanted and has not come to its end, and ``computed`` what was computed here.
    """

    storage: Storage
    pool: ActorPool
    failed: dict[str, str] = field(default_factory=dict)
    open: dict[str, Node] = field(default_factory=dict)
    computed: dict[str, Node] = field(default_factory=dict)
    _waiting: dict[str, Node] = field(default_factory=dict)  # of those open, inputs before those that use them
    _running: dict[str, int] = field(default_factory=dict)  # digest -> calls that are open for it

    def want(self, targets: Iterable[Node]) -> None:
        """Have ``targets`` computed, as far as they are not stored, after what is wanted already."""
        for node in missing([node for node in targets if node.digest not in self.computed], self.storage):
            if node.digest not in self.open and node.digest not in self.failed:
                self.open[node.digest] = self._waiting[node.digest] = node
        self._hand_out()

    def want_again(self, targets: Iterable[Node]) -> None:
        """Have what failed of ``targets``, and of what they need, computed once more."""
        wanted = list(targets)
        for node in ancestry(wanted):
            self.failed.pop(node.digest, None)
        self.want(wanted)

    def settled(self, targets: Iterable[Node]) -> bool:
        """Whether all ``targets`` are stored or have failed."""
        return not any(node.digest in self.open for node in targets)

    def why(self, targets: Iterable[Node]) -> str | None:
        """Why one of ``targets`` failed; None where none did."""
        return next((self.failed[node.digest] for node in targets if node.digest in self.failed), None)

    def step(self) -> None:
        """Wait until a call ends, and hand out what may begin then. Returns at once when nothing is open."""
        for finished in self.pool.wait():
            self._take(finished)
        self._hand_out()

    def _take(self, finished: Finished) -> None:
        node, put_together = finished.call.tag
        self._running[node.digest] -= 1
        if finished.error is not None:
            self.failed.setdefault(node.digest, _sentence(finished.error))
        if self._running[node.digest]:
            return
        del self._running[node.digest]
        if node.digest not in self.failed and not put_together:
            self._submit_whole(node)
            return
        del self.open[node.digest]
        if node.digest not in self.failed:
            self.computed[node.digest] = node

    def _hand_out(self) -> None:
        for node in list(self._waiting.values()):
            parents = [parent.digest for parent in node.inputs.values()]
            lost = next((digest for digest in parents if digest in self.failed), None)
            if lost is not None:
                self.failed[node.digest] = self.failed[lost]
                del self._waiting[node.digest], self.open[node.digest]
            elif not any(digest in self.open for digest in parents):
                del self._waiting[node.digest]
                self._begin(node)

    def _begin(self, node: Node) -> None:
        parts = self._parts(node)
        if len(parts) < 2:
            self._submit_whole(node)
            return
        self._running[node.digest] = len(parts)
        for job in parts:
            self.pool.submit((node, False), compute_part, job)

    def _submit_whole(self, node: Node) -> None:
        self._running[node.digest] = 1
        self.pool.submit((node, True), compute, node, self.storage.address)

    def _parts(self, node: Node) -> list[PartJob]:
        """The parts of a node that are worth handing out one by one."""
        if node.function not in PARTS or self.pool.size == 1:
            return []
        inputs, scratch = inputs_of(node, self.storage), scratch_of(node)
        task = Task(node.name, node.config, inputs, Path(), node.context, self.storage, Progress(), scratch)
        function = PARTS[node.function]
        return part_jobs(task, function, first_row(task, function), node.config["count"])


def _sentence(error: Exception) -> str:
    """What a person reads of a failure: of a node's own without the name, which the trial says."""
    if isinstance(error, NodeFailed):
        return str(error.error)
    return f"{type(error).__name__}: {error}"
