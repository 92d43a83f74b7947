"""What the trials of a round shared, and what that saved: seconds of stored results, counted. Computes nothing.

Counted is what draws, measures and scores generated images. Training, classifiers and real statistics are left out:
whatever is evaluated in one store shares them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.dag import Node, ancestry, stored
from pipeline.storage import LocalStorage

COUNTED = ("chained", "oracle", "scores")


@dataclass(frozen=True)
class TrialNodes:
    """The nodes that are counted of one trial: of all its samples (none where it was dropped), and of a first look."""

    full: Sequence[Node]
    look: Sequence[Node] = ()


def counted(targets: Iterable[Node]) -> list[Node]:
    """Those of ``targets`` and of what they need that draw or score generated images, inputs first."""
    return [node for node in ancestry(targets) if node.name.split("/")[0] in COUNTED]


def of_stage(nodes: Iterable[Node], stage: str) -> list[Node]:
    """Those of ``nodes`` that draw or score images of ``stage``."""
    return [node for node in nodes if node.name.split("/")[-1] == stage]


@dataclass
class Costs:
    """Seconds that stored results took to compute, each looked up once. Nothing stored, nothing spent."""

    storage: LocalStorage
    _known: dict[str, float] = field(default_factory=dict)

    def of(self, nodes: Iterable[Node]) -> float:
        """Of all ``nodes`` together."""
        return sum(self._one(node) for node in nodes)

    def _one(self, node: Node) -> float:
        if node.digest not in self._known:
            self._known[node.digest] = self._read(node)
        return self._known[node.digest]

    def _read(self, node: Node) -> float:
        result = stored(node, self.storage)
        if result is None:
            return 0.0
        facts = result.folder / "drawn.json"
        drawing = float(json.loads(facts.read_text()).get("computing_seconds", 0.0)) if facts.exists() else 0.0
        # Who computes the parts itself has them in its own seconds; who finds them there only puts them together.
        return result.seconds if result.seconds >= drawing else result.seconds + drawing


def sharing_of(
    trials: Sequence[TrialNodes], costs: Costs, *, samples: int, look: int | None, wall: float, busy: float | None
) -> dict[str, Any]:
    """The seconds of a round, as plain JSON.

    "shared_seconds" is of nodes that more than one trial needed, "trial_seconds" of all others, and
    "separate_seconds" what as many evaluations in stores of their own would have computed, each with all ``samples``:
    for a trial that was dropped after ``look`` of them, that is reckoned from those. "saved_seconds" is the difference;
    of it "screening_saved_seconds" is what dropped trials did not draw, less the scores of the first looks.
    ``wall`` is the time of the round and ``busy`` the share of the actors' time inside trials, passed on.
    """
    uses = Counter(digest for trial in trials for digest in {node.digest for node in (*trial.full, *trial.look)})
    nodes = {node.digest: node for trial in trials for node in (*trial.full, *trial.look)}
    shared = costs.of(node for digest, node in nodes.items() if uses[digest] > 1)
    own = costs.of(node for digest, node in nodes.items() if uses[digest] == 1)
    more = samples / look if look else 1.0
    separate = sum(_alone(trial, costs, more) for trial in trials)
    return {
        "trials": len(trials),
        "shared_seconds": shared,
        "trial_seconds": own,
        "separate_seconds": separate,
        "saved_seconds": separate - shared - own,
        "screening_saved_seconds": _by_screening(trials, costs, more),
        "wall_seconds": wall,
        "busy_share": busy,
    }


def _draws(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if not node.name.startswith("scores/")]


def _scores(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if node.name.startswith("scores/")]


def _alone(trial: TrialNodes, costs: Costs, more: float) -> float:
    """What one trial would have cost in a store of its own, without a first look."""
    if trial.full:
        return costs.of(trial.full) + costs.of(_draws(trial.look))  # the draw of all took over those of the look
    return more * costs.of(_draws(trial.look)) + costs.of(_scores(trial.look))


def _by_screening(trials: Sequence[TrialNodes], costs: Costs, more: float) -> float:
    kept = {node.digest for trial in trials if trial.full for node in trial.look}
    looks = {node.digest: node for trial in trials for node in trial.look}
    undrawn = costs.of(_draws(node for digest, node in looks.items() if digest not in kept)) * (more - 1.0)
    return undrawn - costs.of(_scores(looks[digest] for digest in kept))


def told(sharing: dict[str, Any], *, knew_levels: bool, dropped: int = 0) -> str:
    """One sentence for a person on what was shared and saved. ``knew_levels``: all levels, before the first trial."""
    trials, shared, saved = sharing["trials"], sharing["shared_seconds"], sharing["saved_seconds"]
    if trials < 2:
        return "one trial shares nothing"
    if not shared:
        why = "" if knew_levels else ": levels are proposed one by one; algorithm drawn lists them beforehand"
        return f"{trials} trials shared nothing{why}"
    parts = [
        f"{trials} trials: what they share ({_seconds(shared)}) was computed once and not by each of them, "
        f"{_seconds(saved)} saved of {_seconds(sharing['separate_seconds'])}"
    ]
    if dropped:
        early = sharing["screening_saved_seconds"]
        parts.append(f"of that {_seconds(early)} by dropping {dropped} of them after a first look")
    if not knew_levels:
        parts.append("levels are proposed one by one, so each truncation had a trajectory of its own")
    return "; ".join(parts)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if abs(value) < 9.95 else f"{value:,.0f} s"
