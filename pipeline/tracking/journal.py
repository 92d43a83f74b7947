"""Metrics on their way to MLflow, kept in the store of results until MLflow has them. Imports no MLflow.

A training writes them here and nowhere else; the command that started it sends them (``forwarding``) and removes what
has arrived. The store outlives nodes, so that neither a server that is down nor a node that is lost loses a point, and
every point keeps the time at which it was measured. A point may stand here twice, be it that a batch was sent and not
yet removed, or that a step was taken again after a resumption: ``sending`` writes it once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.storage import Storage

FOLDER = "tracking/metrics"
Point = tuple[str, float, int, int]  # name, value, step, unix time in ms


@dataclass(frozen=True)
class Journal:
    """Batches of points of the MLflow run ``run``: objects that are written once, whole, and removed when they are
    sent. Any process may add; their order is that of the clocks of those who wrote them."""

    storage: Storage
    run: str

    @property
    def key(self) -> str:
        return f"{FOLDER}/{self.run}"

    def append(self, points: Sequence[Point]) -> None:
        """Store ``points``, durably when this returns. Raises what the store raises."""
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        written = self.storage.put_new(f"{self.key}/{name}", json.dumps(points).encode())
        assert written, f"{name} was there already"

    def batches(self) -> Iterator[tuple[str, list[Point]]]:
        """What is kept, oldest first: the name of each batch, to ``remove`` it by, and its points.

        A batch that somebody else removes meanwhile is left out: it was sent.
        """
        for name in self.storage.list(self.key):
            try:
                found = json.loads(self.storage.read(f"{self.key}/{name}"))
            except Exception:  # what a folder raises is not what a bucket raises
                if self.storage.exists(f"{self.key}/{name}"):
                    raise
                continue
            yield name, [(metric, value, step, when) for metric, value, step, when in found]

    def remove(self, name: str) -> None:
        """Forget a batch: MLflow has it."""
        self.storage.remove(f"{self.key}/{name}")

    def count(self) -> int:
        """Points that are kept."""
        return sum(len(points) for _, points in self.batches())


def points_of(step: int, values: Mapping[str, float], when: int) -> list[Point]:
    """The metrics of one step, measured at ``when`` (unix time in ms)."""
    return [(name, float(value), step, when) for name, value in values.items()]
