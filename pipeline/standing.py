"""How far an experiment is, read from its store alone: no cluster is asked, nothing is written, no torch is loaded.

What is stored is done. What the driver said of the rest lies under ``progress/`` and counts while somebody owns the
experiment (``pipeline.claims``): what a killed driver left is not running. Failures are noted by ``execution``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pipeline.claims import held_for, owner_of
from pipeline.commits import CommitLog
from pipeline.dag import Node, ancestry, stored
from pipeline.errors import UserError
from pipeline.experiment import digest_of
from pipeline.experiment_spec import Experiment
from pipeline.leases import Owner
from pipeline.node_failures import failure_key
from pipeline.objects import MissingObject
from pipeline.outcome import targets_of
from pipeline.results import Result
from pipeline.session import claim_of
from pipeline.storage import Storage, open_storage

State = Literal["done", "running", "waiting", "failed"]
LOOKS = 16  # nodes that the store is asked for at once
QUIET = 600.0  # seconds without a word of a node after which its pace says nothing of the time left


@dataclass(frozen=True)
class NodeStanding:
    """Where one node is. Numbers are steps, images or trials; times are in seconds, None where nothing honest is known.

    ``done`` of a training that waits is the step of its newest checkpoint, from which it will go on.
    """

    node: str
    state: State
    seconds: float | None = None  # what a result took to compute, in the attempt that finished it
    done: int | None = None
    total: int | None = None
    left_seconds: float | None = None
    quiet_seconds: float | None = None  # since it last said how far it is
    owner: str | None = None  # of a training that another command is at
    error: str | None = None


@dataclass(frozen=True)
class Standing:
    """An experiment in its store: nodes by digest, inputs first, and who is at work on it.

    ``left_seconds`` is known where all that is left says how long it takes and nothing waits for anything else;
    ``at_least_seconds`` counts what is known along the longest chain of what is left.
    """

    owner: Owner | None
    nodes: Mapping[str, NodeStanding]
    left_seconds: float | None
    at_least_seconds: float | None
    trials: Mapping[str, int] = field(default_factory=dict)  # of a search that trains: how many are where

    def figures(self) -> dict[str, Any]:
        """As plain values, for programs; what is not known is left out of a node."""
        return {
            "owner": None if self.owner is None else self.owner.model_dump(),
            "nodes": [{k: v for k, v in vars(node).items() if v is not None} for node in self.nodes.values()],
            "trials": dict(self.trials),
            "left_seconds": self.left_seconds,
            "at_least_seconds": self.at_least_seconds,
        }


def standing_of(experiment: Experiment) -> Standing:
    """How far ``experiment`` is. Raises UserError where its store or its data cannot be read."""
    storage = store_of(experiment)
    standing = look(targets_of(experiment, storage), storage, claim_of(experiment, "experiment"))
    unsearched = any(node.node == "search" and node.state != "done" for node in standing.nodes.values())
    return Standing(**{**vars(standing), "trials": _trials(experiment, storage) if unsearched else {}})


def store_of(experiment: Experiment) -> Storage:
    """The store of an experiment, which must be there: looking makes no folder."""
    if "://" not in experiment.store and not Path(experiment.store).expanduser().is_dir():
        raise UserError(
            f"store {experiment.store} is not on this machine: nothing has run with it here; give --set store= where "
            "results are, or --address of the cluster that sees it"
        )
    return open_storage(experiment.store)


def look(targets: Sequence[Node], storage: Storage, claim: str) -> Standing:
    """Where every node is that ``targets`` need, less inputs of what is stored. At work is who owns ``claim``."""
    graph, owner = ancestry(targets), owner_of(storage, claim)
    with ThreadPoolExecutor(LOOKS) as pool:
        results = dict(zip([n.digest for n in graph], pool.map(lambda n: stored(n, storage), graph), strict=True))
        shown = _needed(targets, results)
        wanted = [node for node in graph if node.digest in shown]
        since = time.monotonic() - (held_for(storage, claim) if owner is not None else 0.0)
        notes = _Notes(storage, owner, since, seconds_by_kind(graph, results))
        found = dict(zip([n.digest for n in wanted], pool.map(lambda n: notes.on(n, results), wanted), strict=True))
    least = _longest(wanted, found)
    left = [node for node in found.values() if node.state != "done"]
    certain = all(node.state == "running" and node.left_seconds is not None for node in left)
    return Standing(owner, found, least or 0.0 if certain else None, least)


def _needed(targets: Iterable[Node], results: Mapping[str, Result | None]) -> set[str]:
    needed: set[str] = set()
    todo = list(targets)
    while todo:
        node = todo.pop()
        if node.digest not in needed:
            needed.add(node.digest)
            todo += [] if results[node.digest] is not None else node.inputs.values()
    # What is stored is shown also where nothing asks for it any more: it was part of the way.
    return needed | {digest for digest, result in results.items() if result is not None}


def kind_of(node: Node) -> str:
    """What nodes have in common that differ in their seed alone, and so should take as long."""
    return digest_of([node.name, node.function, {key: value for key, value in node.config.items() if key != "seed"}])


def seconds_by_kind(graph: Iterable[Node], results: Mapping[str, Result | None]) -> dict[str, float]:
    """The median seconds of what is stored, by ``kind_of``."""
    taken: dict[str, list[float]] = {}
    for node in graph:
        if (result := results[node.digest]) is not None:
            taken.setdefault(kind_of(node), []).append(result.seconds)
    return {kind: median(seconds) for kind, seconds in taken.items()}


@dataclass(frozen=True)
class _Notes:
    """What a store says of nodes that are not stored. What was said before ``owner`` began (``since``, by the
    monotonic clock) is of a command that is over."""

    storage: Storage
    owner: Owner | None
    since: float
    usual: Mapping[str, float]  # seconds by kind of node

    def on(self, node: Node, results: Mapping[str, Result | None]) -> NodeStanding:
        if (result := results[node.digest]) is not None:
            return NodeStanding(node.name, "done", seconds=result.seconds)
        key = f"progress/{node.digest[:16]}.json"
        told = self._read(key)
        age = None if told is None else self.storage.age(key)
        trainer = owner_of(self.storage, Path(node.context["run"]).name) if "run" in node.context else None
        if trainer is not None or (told is not None and self._is_of_owner(age)):
            return self._running(node, told or [], age, trainer)
        failure = self._read(failure_key(node))
        if failure is not None and (self.owner is None or self._is_of_owner(self.storage.age(failure_key(node)))):
            return NodeStanding(node.name, "failed", error=failure["error"])
        usual = self.usual.get(kind_of(node))
        if "run" not in node.context:
            return NodeStanding(node.name, "waiting", left_seconds=usual)
        newest = CommitLog(self.storage, node.context["run"], owner="reader", clock=lambda: 0.0).newest()
        step, steps = None if newest is None else newest.info.get("step"), node.config["training"]["steps"]
        begun = step is not None and step < steps
        return NodeStanding(node.name, "waiting", done=step, total=steps, left_seconds=None if begun else usual)

    def _running(self, node: Node, told: list[Any], quiet: float | None, trainer: Owner | None) -> NodeStanding:
        owner = trainer.told if trainer is not None and self.owner is None else None
        if not told:
            return NodeStanding(node.name, "running", owner=owner)
        done, total, first, seconds = told
        left = None
        if total and done > first and quiet is not None and quiet < QUIET:
            left = max(0.0, seconds / (done - first) * (total - done) - quiet)
        return NodeStanding(
            node.name, "running", done=done, total=total, left_seconds=left, quiet_seconds=quiet, owner=owner
        )

    def _is_of_owner(self, age: float | None) -> bool:
        return self.owner is not None and age is not None and time.monotonic() - age >= self.since

    def _read(self, key: str) -> Any:
        with suppress(FileNotFoundError, MissingObject):
            return json.loads(self.storage.read(key))
        return None


def _longest(graph: Sequence[Node], found: Mapping[str, NodeStanding]) -> float | None:
    """Seconds along the longest chain of what is left, of which only some is known; None where nothing is."""
    ends: dict[str, float] = {}
    for node in graph:  # inputs first
        mine = found[node.digest]
        before = max((ends.get(parent.digest, 0.0) for parent in node.inputs.values()), default=0.0)
        ends[node.digest] = 0.0 if mine.state == "done" else before + (mine.left_seconds or 0.0)
    known = any(node.state != "done" and node.left_seconds is not None for node in found.values())
    finished = all(node.state == "done" for node in found.values())
    return max(ends.values(), default=0.0) if known or finished else None


def _trials(experiment: Experiment, storage: Storage) -> dict[str, int]:
    """How many trials of a search that trains are begun, finished, pruned and failed."""
    from pipeline.search.budget import prefix_of
    from pipeline.tuning.log import TrialLog

    assert experiment.search is not None, "there is a search node"
    return dict(Counter(entry.state for entry in TrialLog(storage, prefix_of(experiment, experiment.search)).entries()))
