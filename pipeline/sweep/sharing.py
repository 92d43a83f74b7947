"""What the trials of a round shared, and what that saved: seconds of stored results, counted. Computes nothing.

Counted is what draws, measures and scores generated images, and in a round that trains the weights of the stages whose
settings it searches. Other training, classifiers and real statistics are left out: whatever is evaluated in one store
shares them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.dag import Node, ancestry, stored
from pipeline.experiment_spec import Experiment
from pipeline.search.proposals import shares_levels
from pipeline.search.spec import SearchSpec
from pipeline.storage import Storage
from stages.specs import StageSamplingSpec

COUNTED = ("chained", "oracle", "scores")


@dataclass(frozen=True)
class TrialNodes:
    """The nodes that are counted of one trial: of all its samples (none where it failed before), and of a first look.

    One that was ``dropped`` after its look computed nothing of ``full``, which says what it would have cost.
    """

    full: Sequence[Node]
    look: Sequence[Node] = ()
    dropped: bool = False

    @property
    def computed(self) -> list[Node]:
        """What the trial asked for."""
        return list(self.look) if self.dropped else [*self.full, *self.look]

    @property
    def taken_over(self) -> list[Node]:
        """The draws of the look whose rows are the beginning of the draws of all samples."""
        begun = {node.context.get("earlier") for node in self.full}
        return [node for node in _draws(self.look) if node.key in begun]


def counted(targets: Iterable[Node], *, trained: Collection[str] = ()) -> list[Node]:
    """Those of ``targets`` and of what they need that draw or score generated images, inputs first; and the weights of
    the stages in ``trained``."""
    return counted_alone(ancestry(targets), trained=trained)


def counted_alone(nodes: Iterable[Node], *, trained: Collection[str] = ()) -> list[Node]:
    """As ``counted``, of ``nodes`` alone and not of what they need."""
    weights = {f"train/{stage}" for stage in trained}
    return [node for node in nodes if node.name.split("/")[0] in COUNTED or node.name in weights]


def of_stage(nodes: Iterable[Node], stage: str) -> list[Node]:
    """Those of ``nodes`` that draw or score images of ``stage``."""
    return [node for node in nodes if node.name.split("/")[-1] == stage]


def knew_levels(search: SearchSpec, paths: Sequence[str], tried: Iterable[Experiment]) -> bool:
    """Whether all levels at which a chain was cut short were known before the first trial began.

    ``tried`` are the experiments of the trials of a round that searches ``paths``.
    """
    if shares_levels(search, paths):
        return True
    sampled = [stage.sampling for changed in tried for stage in changed.stages.values()]
    return not any(sampling.augmentation == "truncated" and sampling.level > 0 for sampling in sampled)


@dataclass
class Costs:
    """Seconds that stored results took to compute, each looked up once. Nothing stored, nothing spent."""

    storage: Storage
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
        path = result.file("drawn.json")
        if not path.exists():
            return result.seconds
        # Its parts, whoever computed them and before whichever kill, and putting them together.
        facts = json.loads(path.read_text())
        return float(facts["computing_seconds"] + facts["gathering_seconds"])


def sharing_of(
    trials: Sequence[TrialNodes], costs: Costs, *, samples: int, look: int | None, wall: float, busy: float | None
) -> dict[str, Any]:
    """The seconds of a round, as plain JSON.

    "shared_seconds" is of nodes that more than one trial needed, "trial_seconds" of all others, and
    "separate_seconds" what as many evaluations in stores of their own would have computed, each with all ``samples``:
    for a trial that was dropped after ``look`` of them, that is reckoned from those. "saved_seconds" is the difference;
    of it "screening_saved_seconds" is what dropped trials did not draw, less what the first looks of others cost.
    ``wall`` is the time of the round and ``busy`` the share of the actors' time inside trials, passed on.
    """
    uses = Counter(digest for trial in trials for digest in {node.digest for node in trial.computed})
    nodes = {node.digest: node for trial in trials for node in trial.computed}
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
    return [node for node in nodes if node.name.split("/")[0] in ("chained", "oracle")]


def _scores(nodes: Iterable[Node]) -> list[Node]:
    return [node for node in nodes if node.name.startswith("scores/")]


def _alone(trial: TrialNodes, costs: Costs, more: float) -> float:
    """What one trial would have cost in a store of its own, without a first look."""
    if trial.dropped:
        return sum(_reckoned(trial, costs, more).values()) + costs.of(_scores(trial.look))
    return costs.of(trial.full) + costs.of(trial.taken_over) if trial.full else costs.of(trial.look)


def _reckoned(trial: TrialNodes, costs: Costs, more: float) -> dict[str, float]:
    """The seconds that drawing all samples of a dropped trial would have taken, by digest: ``more`` times its look.

    An oracle has no look; its images cost what the chained ones of the stage do.
    """
    looks = {node.name: node for node in _draws(trial.look)}
    found = {}
    for node in _draws(trial.full):
        look = looks[node.name.replace("oracle/", "chained/")]
        found[node.digest] = costs.of([look]) * more * net_calls(node) / net_calls(look)
    return found


def net_calls(draw: Node) -> int:
    """Calls of the net that one image of a node that draws takes, those of its own stage alone."""
    return StageSamplingSpec.model_validate(draw.config["sampling"]).net_calls


def _by_screening(trials: Sequence[TrialNodes], costs: Costs, more: float) -> float:
    gone, stayed = [one for one in trials if one.dropped], [one for one in trials if not one.dropped]
    drawn = {node.digest for trial in stayed for node in trial.computed}
    full = {digest: seconds for trial in gone for digest, seconds in _reckoned(trial, costs, more).items()}
    looks = {node.digest: node for trial in gone for node in _draws(trial.look) if node.digest not in drawn}
    undrawn = sum(seconds for digest, seconds in full.items() if digest not in drawn) - costs.of(looks.values())
    taken = {node.digest for trial in stayed for node in trial.taken_over}
    extra = {node.digest: node for trial in stayed if trial.full for node in trial.look if node.digest not in taken}
    return undrawn - costs.of(extra.values())


def told(sharing: Mapping[str, Any], *, knew_levels: bool, dropped: int = 0) -> str:
    """One sentence for a person on what was shared and saved. ``knew_levels``: all levels, before the first trial."""
    trials, shared, saved = sharing["trials"], sharing["shared_seconds"], sharing["saved_seconds"]
    if trials < 2:
        return "one trial shares nothing"
    if not shared:
        why = "" if knew_levels else ": levels are proposed one by one; algorithm drawn lists them beforehand"
        return f"{trials} trials shared nothing{why}"
    parts = [
        f"{trials} trials: what they share ({_seconds(shared)}) was computed once and not by each of them, "
        f"{_told_saved(saved, sharing['separate_seconds'])}"
    ]
    early = sharing["screening_saved_seconds"]
    if early < 0:
        parts.append(f"first looks took {_seconds(-early)} more than they saved")
    elif dropped:
        parts.append(f"of that {_seconds(early)} by dropping {dropped} of them after a first look")
    if not knew_levels:
        parts.append("levels are proposed one by one, so each truncation had a trajectory of its own")
    return "; ".join(parts)


def _told_saved(saved: float, separate: float) -> str:
    if saved >= 0:
        return f"{_seconds(saved)} saved of {_seconds(separate)}"
    return f"yet all of it took {_seconds(-saved)} more than separate evaluations ({_seconds(separate)})"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 9.95 else f"{value:,.0f} s"
