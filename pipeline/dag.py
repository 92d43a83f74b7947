"""The experiment as a graph of nodes that remembers what is done.

A node's *digest* covers what changes its result: its function and hand-raised version, its settings and the
digests of its inputs; never where it runs, nor on how many workers, which changes rounding alone (where it changes
more it is a setting). A result is stored under that digest, and exists when its entry is committed
(``pipeline.commits``). Running a graph computes only what is missing.

A node's function is a plain function ``fn(task) -> summary``; ``pipeline.computing`` calls it, here or
as a task of Ray (``pipeline.execution``).
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pipeline.commits import CommitLog
from pipeline.experiment import digest_of
from pipeline.results import Committed, Result
from pipeline.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """One thing to compute. ``config`` and the digests of ``inputs`` make its identity; ``context`` does not."""

    name: str
    function: str  # "pipeline.evaluation:score"
    version: int  # raised by hand when the function's result changes for the same settings
    config: Mapping[str, Any]
    inputs: Mapping[str, Node] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 1.0
    gpus: float = 0.0
    content: str | None = None  # what stands for this node in the digests of others, where that is not its own

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of everything that changes the result."""
        return digest_of(
            {
                "function": self.function,
                "version": self.version,
                "config": self.config,
                "inputs": {role: node.identity for role, node in self.inputs.items()},
            }
        )

    @property
    def identity(self) -> str:
        """What results computed from this one depend on. A link to a data set is another for another address, but what
        is trained on it depends on the data alone."""
        return self.content or self.digest

    @property
    def key(self) -> str:
        """Where the result lies in the storage."""
        return f"results/{self.name.replace('/', '-')}-{self.digest[:16]}"


@dataclass
class Progress:
    """Says how far a node is by a few bytes under ``key``: the driver looks there, whichever process does the work.

    ``[done, total, first, seconds]``: ``first`` was done when it spoke first, ``seconds`` before, so whoever reads it
    knows the pace. None or no key: nobody asks.
    """

    storage: Storage | None = None
    key: str | None = None
    _first: tuple[float, int] | None = field(default=None, compare=False)

    def __call__(self, done: int, total: int) -> None:
        if self.storage is None or self.key is None:
            return
        now = time.monotonic()
        if self._first is None or done < self._first[1]:
            self._first = now, done
        told = [done, total, self._first[1], round(now - self._first[0], 3)]
        self.storage.tell(self.key, json.dumps(told).encode())


@dataclass(frozen=True)
class Task:
    """What a node's function is given."""

    node: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Path]  # folder of each input's result, fetched when it is asked for (``Folders``)
    out: Path  # an empty folder for the result's files
    context: Mapping[str, Any]
    storage: Storage
    progress: Progress
    # Key of what outlives a killed driver, for the same node to find; removed with the commit.
    scratch: str = "scratch"


class NodeFailed(RuntimeError):  # noqa: N818 - it states what happened
    """A node's function raised; the message names the node and the error, ``trace`` holds the traceback."""

    def __init__(self, node: str, error: str, trace: str) -> None:
        super().__init__(f"{node} failed: {error}")
        self.node, self.error, self.trace = node, error, trace

    def __reduce__(self) -> tuple[Any, ...]:
        return NodeFailed, (self.node, self.error, self.trace)


def ancestry(targets: Iterable[Node]) -> list[Node]:
    """``targets`` and all they need, each once (by digest), inputs before those that use them."""
    order: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.digest not in order:
            for parent in node.inputs.values():
                visit(parent)
            order[node.digest] = node

    for target in targets:
        visit(target)
    return list(order.values())


@cache
def source_of(function: str) -> str:
    """sha256 of the source behind ``function``: its module and all of this project's modules that it imports.

    For noticing that code changed under an unchanged version; found by reading, nothing is imported.
    """
    root = Path(__file__).parents[1]
    todo, sources = [function.split(":")[0]], {}
    while todo:
        module = todo.pop()
        path = root / f"{module.replace('.', '/')}.py"
        if module not in sources and path.is_file():
            sources[module] = path.read_bytes()
            for line in ast.walk(ast.parse(sources[module])):
                if isinstance(line, ast.ImportFrom) and line.module is not None:
                    todo += [line.module, *(f"{line.module}.{alias.name}" for alias in line.names)]
    assert sources, f"no source for {function}"
    return hashlib.sha256(b"\0".join(sources[name] for name in sorted(sources))).hexdigest()


_WARNED: set[str] = set()  # said once per process and node


def stored(node: Node, storage: Storage) -> Result | None:
    """The stored result of ``node``, or None. Warns when the code changed under an unchanged version."""
    commits = CommitLog(storage, node.key, owner="reader", clock=time.time)
    entry = next(commits.sound(), None)
    if entry is None:
        return None
    if entry.info.get("source") != source_of(node.function) and node.name not in _WARNED:
        _WARNED.add(node.name)
        log.warning(
            "%s: reusing a result although the code behind %s changed since; if its numbers change, raise its version",
            node.name,
            node.function,
        )
    return Result(Committed(commits, entry), entry.info["summary"], entry.info["seconds"], reused=True)


def is_stored(node: Node, storage: Storage) -> bool:
    """Whether there is a result of ``node``."""
    return next(CommitLog(storage, node.key, owner="reader", clock=time.time).sound(), None) is not None


def missing(targets: Sequence[Node], storage: Storage) -> list[Node]:
    """What must be computed for ``targets``: inputs of a stored result are not visited."""
    order: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.digest not in order and not is_stored(node, storage):
            for parent in node.inputs.values():
                visit(parent)
            order[node.digest] = node

    for target in targets:
        visit(target)
    return list(order.values())
