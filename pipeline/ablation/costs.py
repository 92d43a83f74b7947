"""What an ablation cost: device-seconds of every result, who uses it, and what sharing saved. Reads stored results.

A device is a GPU where the experiment trains on GPUs, else a CPU core; what holds no device costs nothing. Trainings
count the seconds that they trained, over all attempts, and draws those of their parts; of other results there is the
wall time of the attempt that ended, in which a node that hands out its work may have waited for room. Trials of a
search that train told their own hours: on CPUs those of workers, whatever ``cpus_per_worker`` is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.ablation.parts import AblationSharing
from pipeline.ablation.run import Ablation
from pipeline.dag import Node, ancestry, stored
from pipeline.results import Result
from pipeline.search.spec import SearchSpec

Device = Literal["GPU", "CPU core"]


@dataclass(frozen=True)
class Costs:
    """Of every stored result by digest its device-seconds and its ``clock``, seconds of one attempt after the other;
    and the results that each replicate (cell, seed) comes to."""

    seconds: dict[str, float]
    clock: dict[str, float]
    used: dict[tuple[str, int], frozenset[str]]
    trainings: frozenset[str]
    device: Device

    @classmethod
    def of(cls, ablation: Ablation) -> Costs:
        device: Device = "GPU" if ablation.experiment.resources.gpus_per_worker else "CPU core"
        seconds, clock = dict[str, float](), dict[str, float]()
        used, trainings = {}, set()
        for cell in ablation.cells:
            mine = set()
            for node in ancestry(cell.targets()):
                if node.digest not in seconds and (result := stored(node, cell.storage)) is not None:
                    seconds[node.digest] = device_seconds(node, result, device)
                    clock[node.digest] = clock_seconds(node, result)
                    trainings |= {node.digest} if node.name.startswith("train/") else set()
                mine |= {node.digest} & seconds.keys()
            used[cell.replicate.cell, cell.replicate.seed] = frozenset(mine)
        return cls(seconds, clock, used, frozenset(trainings), device)

    def of_replicate(self, cell: str, seed: int) -> float:
        """Device-seconds of all results that it comes to, whoever else uses them."""
        return sum(self.seconds[digest] for digest in self.used[cell, seed])

    def clock_of_replicate(self, cell: str, seed: int) -> float:
        """What all results that it comes to took by the clock, as if one was computed after the other."""
        return sum(self.clock[digest] for digest in self.used[cell, seed])

    def of_cell(self, name: str) -> tuple[float, float]:
        """Device-seconds of results that the cell ``name`` alone uses, and of those that other cells use as well."""
        users: dict[str, set[str]] = defaultdict(set)
        for (cell, _), digests in self.used.items():
            for digest in digests:
                users[digest].add(cell)
        own = sum(self.seconds[digest] for digest, cells in users.items() if cells == {name})
        shared = sum(self.seconds[digest] for digest, cells in users.items() if name in cells and len(cells) > 1)
        return own, shared

    def sharing(self, wall_seconds: float | None) -> AblationSharing:
        """What was computed, against what replicates would have computed as separate experiments."""
        spent = sum(self.seconds.values())
        separate = sum(self.of_replicate(*replicate) for replicate in self.used)
        return AblationSharing(
            spent_seconds=spent,
            separate_seconds=separate,
            saved_seconds=separate - spent,
            wall_seconds=wall_seconds,
            device=self.device,
            trainings_run=len(self.trainings),
            trainings_asked=sum(len(digests & self.trainings) for digests in self.used.values()),
        )


def clock_seconds(node: Node, result: Result) -> float:
    """What ``result`` took by the clock; of a training over all attempts."""
    return float(result.summary["seconds"]) if "workers" in node.context else result.seconds


def device_seconds(node: Node, result: Result, device: Device) -> float:
    """What ``result`` took of a device, with the workers and shares that ``node`` has now."""
    context, gpu = node.context, device == "GPU"
    if "workers" in context:  # trained by Ray Train, whose seconds add up over attempts
        workers, share = context["workers"], context["gpus_per_worker" if gpu else "cpus_per_worker"]
        return float(result.summary["seconds"]) * share * (workers if isinstance(workers, int) else workers["max"])
    held = node.gpus if gpu else node.cpus
    if node.cpus or node.gpus:
        return held * _seconds(result)
    # It holds nothing itself: tasks do, each as much, and at most so many at once.
    share = context["gpus_per_sampling_worker"] if gpu else context["threads"]
    if node.name == "search":
        search = SearchSpec.model_validate(context["experiment"]["search"])
        actors = search.trials_at_once([], context["sampling_workers"])
        return sum(_round_seconds(found, actors * share) for found in result.summary["rounds"])
    if (computing := _computing(result)) is not None:
        return share * computing
    return share * context["sampling_workers"] * result.seconds


def _seconds(result: Result) -> float:
    computing = _computing(result)
    return result.seconds if computing is None else computing


def _computing(result: Result) -> float | None:
    """Seconds of all parts of a draw, however many attempts and tasks they were drawn in; None of other results."""
    facts = result.file("drawn.json")
    return json.loads(facts.read_text()).get("computing_seconds") if facts.is_file() else None


def _round_seconds(found: Mapping[str, Any], devices: float) -> float:
    """Of a round of a search: trials that trained counted theirs, others had ``devices`` while the round went on."""
    if found["kind"] == "training":
        return 3600.0 * sum(point.get("cost_hours", 0.0) for point in found["points"])
    return float(found["sharing"]["wall_seconds"]) * devices
