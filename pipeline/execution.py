"""Running a graph: what is missing is computed (``pipeline.computing``), here or as Ray tasks.

The driver only decides which nodes are ready; results travel through the storage, never through Ray's object
store, so a lost worker or driver loses the nodes it was computing and nothing else.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.alike import Alike
from pipeline.commits import CommitLog
from pipeline.computing import compute
from pipeline.dag import Node, NodeFailed, ancestry, missing, stored
from pipeline.errors import UserError, first_line
from pipeline.events import Events
from pipeline.node_failures import failure_sentence, note_failure
from pipeline.objects import MissingObject, StoreError
from pipeline.results import Result
from pipeline.revision import git_revision
from pipeline.storage import Storage


def execute(targets: Sequence[Node], storage: Storage, events: Events, *, use_ray: bool) -> dict[str, Result]:
    """Compute what is missing for ``targets`` and return the result of every target by name.

    With ``use_ray`` (Ray must be initialised) nodes whose inputs are ready run at the same time as Ray tasks;
    otherwise one after the other in this process. Raises what the first node that fails raises.
    """
    todo = missing(targets, storage)
    waiting = {node.digest for node in todo}
    for node in ancestry(targets):
        if node.digest not in waiting and (result := stored(node, storage)):
            events.finished(node.name, result.seconds, True)
    if use_ray:
        _RayRun(storage, events).compute(todo)
    else:
        for node in todo:
            events.started(node.name)
            events.finished(node.name, compute(node, storage.address).seconds, False)
    results = {node.name: stored(node, storage) for node in targets}
    assert all(results.values()), "every target is stored after execution"
    done = {node.name for node in todo}
    return {n: Result(r.place, r.summary, r.seconds, n not in done) for n, r in results.items() if r is not None}


def attempt(
    targets: Sequence[Node],
    storage: Storage,
    events: Events,
    *,
    at_once: Mapping[str, int],
    called: Callable[[Node], str],
    traces: str,
) -> dict[str, str]:
    """As ``execute`` on Ray, for graphs of which a part may fail: the sentence of every failed node, by its digest.

    What needs a failed node fails with it, and all else goes on. ``at_once`` says how many nodes of a kind (the first
    word of their names) run at most; names need not differ, ``called`` is what a person reads. Tracebacks go to files
    in the folder ``traces`` of the storage, which the sentences name.
    """
    todo = missing(targets, storage)
    run = _RayRun(storage, events, at_once, called, traces)
    run.compute(todo)
    return run.failed


def _own_name(node: Node) -> str:
    return node.name


@dataclass
class _RayRun:
    """Nodes as Ray tasks, each as soon as its inputs are stored and its kind has room."""

    storage: Storage
    events: Events
    at_once: Mapping[str, int] = field(default_factory=dict)
    called: Callable[[Node], str] = _own_name
    traces: str | None = None  # where failures are tolerated, the folder of their tracebacks
    failed: dict[str, str] = field(default_factory=dict)  # digest -> why
    reached: dict[str, int] = field(default_factory=dict)  # digest -> newest commit when its training was given to Ray
    waiting: dict[str, Node] = field(default_factory=dict)
    running: dict[Any, tuple[Node, str]] = field(default_factory=dict)  # with the key of how far it is
    alike: Alike = field(default_factory=Alike)
    looked: float = -math.inf  # when it was last seen how far nodes are, by the monotonic clock

    def compute(self, todo: Sequence[Node]) -> None:
        """Compute ``todo``. Raises what a node raised, unless failures are tolerated."""
        import ray

        self.waiting = {node.digest: node for node in todo}
        try:
            while self.waiting or self.running:
                self._give_up()
                self._start()
                if not self.running:
                    assert not self.waiting, "a graph has no cycles"
                    return
                ready, _ = ray.wait(list(self.running), timeout=0.25)
                for reference in ready:
                    self._finish(reference)
                self._look()
        finally:
            for reference in self.running:
                ray.cancel(reference, force=False)

    def _look(self) -> None:
        """Tell how far nodes are, and whether the cluster's are fit, as often as the storage is to be asked."""
        if time.monotonic() - self.looked < self.storage.patience:
            return
        self.alike.look()
        for node, progress in self.running.values():
            with suppress(FileNotFoundError, MissingObject, StoreError):  # only shown: asked for again soon
                if told := json.loads(self.storage.read(progress)):
                    self.events.progress(self.called(node), *told[:2])
        self.looked = time.monotonic()

    def _trace(self, node: Node) -> str:
        assert self.traces is not None, "what fails is tolerated"
        return f"{self.traces}/{node.key.removeprefix('results/')}.txt"

    def _give_up(self) -> None:
        """What needs a failed node fails; inputs stand before those that use them, so one pass is enough."""
        for node in list(self.waiting.values()):
            lost = next((parent for parent in node.inputs.values() if parent.digest in self.failed), None)
            if lost is not None:
                del self.waiting[node.digest]
                self.failed[node.digest] = self.failed[lost.digest]

    def _start(self) -> None:
        import ray

        remote: Any = ray.remote(compute)
        busy = {node.digest for node, _ in self.running.values()}
        kinds = [_kind(node) for node, _ in self.running.values()]
        for node in list(self.waiting.values()):
            kind = _kind(node)
            if any(parent.digest in self.waiting or parent.digest in busy for parent in node.inputs.values()):
                continue
            if kinds.count(kind) >= self.at_once.get(kind, len(kinds) + 1):
                continue
            self.reached[node.digest] = _newest_commit(node, self.storage)
            progress = f"progress/{node.digest[:16]}.json"
            self.storage.put(progress, b"[]")  # it is being computed, and says nothing yet
            needs = {"num_cpus": node.cpus, "num_gpus": node.gpus, "name": node.name}
            reference = remote.options(**needs).remote(node, self.storage.address, progress, git_revision())
            self.running[reference] = (self.waiting.pop(node.digest), progress)
            busy.add(node.digest)
            kinds.append(kind)
            self.events.started(self.called(node))

    def _finish(self, reference: Any) -> None:
        node, progress = self.running.pop(reference)
        try:
            result = _get(reference, node)
        except Exception as error:
            if _is_loss(error) and _newest_commit(node, self.storage) > self.reached[node.digest]:
                self.events.message(f"{self.called(node)}: given to Ray anew after losses: {first_line(error)}")
                self.waiting[node.digest] = node
                return
            note_failure(node, error, self.storage)
            if self.traces is None:
                raise
            self.failed[node.digest] = failure_sentence(error, self.storage, self._trace(node))
            self.events.message(f"{self.called(node)}: failed: {self.failed[node.digest]}")
            return
        finally:
            self.storage.remove(progress)
        if self.traces is not None:  # of an earlier command, which may have failed here
            self.storage.remove(self._trace(node))
        self.events.finished(self.called(node), result.seconds, False)


def _kind(node: Node) -> str:
    return node.name.split("/")[0]


def _is_loss(error: Exception) -> bool:
    """Whether the process or the host of a task was lost, more often than Ray begins a task again by itself."""
    import ray

    return isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.NodeDiedError)


def _newest_commit(node: Node, storage: Storage) -> int:
    """Number of the newest commit of a node's training, 0 for none and for what trains nothing: a higher one says that
    it came further since.

    Hosts come and go more often than any number of retries foresees; a process that dies of itself comes no further.
    """
    run = node.context.get("run")
    newest = None if run is None else CommitLog(storage, run, owner="reader", clock=time.time).newest()
    return 0 if newest is None else newest.number


def _get(reference: Any, node: Node) -> Result:
    import ray

    try:
        result: Result = ray.get(reference)
        return result
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, NodeFailed):
            raise NodeFailed(cause.node, cause.error, cause.trace) from None
        raise NodeFailed(node.name, f"{type(cause).__name__}: {cause}", str(error)) from None
