"""What an ablation cost: seconds of compute by result, who uses each, and what sharing saved. Reads stored results."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from pipeline.ablation.parts import AblationSharing
from pipeline.ablation.run import Ablation
from pipeline.dag import ancestry, stored


@dataclass(frozen=True)
class Costs:
    """Seconds of every stored result by digest, and the results that each replicate (cell, seed) comes to."""

    seconds: dict[str, float]
    used: dict[tuple[str, int], frozenset[str]]
    trainings: frozenset[str]

    @classmethod
    def of(cls, ablation: Ablation) -> Costs:
        seconds: dict[str, float] = {}
        used, trainings = {}, set()
        for cell in ablation.cells:
            mine = set()
            for node in ancestry(cell.targets()):
                if (result := stored(node, cell.storage)) is not None:
                    seconds[node.digest] = result.seconds
                    mine.add(node.digest)
                    trainings |= {node.digest} if node.name.startswith("train/") else set()
            used[cell.replicate.cell, cell.replicate.seed] = frozenset(mine)
        return cls(seconds, used, frozenset(trainings))

    def of_cell(self, name: str) -> tuple[float, float]:
        """Seconds computed for the cell ``name`` alone, and of results that other cells use as well."""
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
        separate = sum(self.seconds[digest] for digests in self.used.values() for digest in digests)
        return AblationSharing(
            spent_seconds=spent,
            separate_seconds=separate,
            saved_seconds=separate - spent,
            wall_seconds=wall_seconds,
            trainings_run=len(self.trainings),
            trainings_asked=sum(len(digests & self.trainings) for digests in self.used.values()),
        )
