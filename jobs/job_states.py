"""How far a job is, read from the lines that it logs (`jobs.on_cluster`, `jobs.progress`). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from jobs.on_cluster import COMPUTED, STORED

State = Literal["stored", "done", "running", "waiting", "failed"]
_LINE = re.compile(r"(?P<node>[^\s:]+): (?P<what>started|reused, .*|done in .*|failed: .*|\d+ (?:of \d+|so far).*)")
_PROGRESS = re.compile(r"(?P<done>\d+) (?:of (?P<total>\d+)|so far)(?:, (?P<left>.*) left)?")


@dataclass(frozen=True)
class NodeState:
    """One node of the graph: where it is, how much of it is done, and how long it says that it still takes."""

    state: State
    done: int | None = None
    total: int | None = None
    left: str | None = None
    took: str | None = None


def states_of(log: str) -> dict[str, NodeState]:
    """The nodes in the order of the graph, as the last line on each has it."""
    found: dict[str, NodeState] = {}
    for line in log.splitlines():
        for heading, state in ((STORED, "stored"), (COMPUTED, "waiting")):
            if line.startswith(f"{heading}: ") and not line.endswith(": nothing"):
                names = line.removeprefix(f"{heading}: ").split(", ")
                found |= {name: NodeState(state) for name in names}  # type: ignore[arg-type]
        if said := _LINE.fullmatch(line.strip()):
            found[said["node"]] = _state(said["what"], found.get(said["node"]))
    return found


def _state(what: str, before: NodeState | None) -> NodeState:
    if what == "started":
        return NodeState("running")
    if what.startswith("done in "):
        return NodeState("done", took=what.removeprefix("done in "))
    if what.startswith("reused, "):
        taken = what.removeprefix("reused, took ").removesuffix(" when it was computed")
        # A node of this job is told as reused when another part of it asks for it later.
        return before if before is not None and before.state == "done" else NodeState("stored", took=taken)
    if what.startswith("failed: "):
        return NodeState("failed")
    said = _PROGRESS.match(what)
    assert said is not None, "the pattern of lines is no wider"
    total = int(said["total"]) if said["total"] else None
    return NodeState("running", int(said["done"]), total, said["left"])
