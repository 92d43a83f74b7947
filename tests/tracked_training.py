"""A training whose metrics go to MLflow, its worker lost where a test wants it, and what MLflow then has of it.

``conftest.py`` registers this file as a plugin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.preemption import CommitTimes
from pipeline.stage_run import StageRun
from pipeline.storage import open_storage
from pipeline.tracking.forwarding import Forwarder
from pipeline.tracking.journal import Journal, Point
from pipeline.tracking.outages import unavailable
from pipeline.tracking.runs import Tracker
from pipeline.tracking.sending import Sender
from pipeline.worker_settings import LoopSettings

STEPS, METRICS = 24, 6
STAGE = {
    "name": "base",
    "size": 8,
    "net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8},
}


class Lost(Exception):  # noqa: N818 - it states what happened
    """A worker is gone."""


class Doomed(StageRun):
    """A worker that is lost before it commits ``last``: that step is measured and not in any checkpoint."""

    last = STEPS + 1

    def begin_commit(self, metrics: Mapping[str, float], times: CommitTimes) -> None:
        if self.state.step == self.last:
            raise Lost
        super().begin_commit(metrics, times)


@dataclass
class Training:
    """A training with a run of MLflow at ``uri``; ``times`` are when its steps were measured first."""

    uri: str
    data: Path
    store: Path
    key: str
    times: dict[int, int] = field(default_factory=dict)
    steps: int = STEPS
    metrics: int = METRICS

    def __post_init__(self) -> None:
        tracker = Tracker(self.uri)
        self.run = tracker.run(tracker.open_experiment("faults"), name="train/base", kind="stage", key=self.key)
        self.journal = Journal(open_storage(self.store), self.run)

    @property
    def settings(self) -> dict[str, Any]:
        training = {"steps": STEPS, "batch_size": 8, "warmup": 2}
        return {
            "stage": STAGE, "training": training, "seed": 0, "data": str(self.data), "storage": str(self.store),
            "shuffle": {"window": 16, "lanes": 1}, "run": "runs/base", "threads": 1, "loader_processes": 0,
            "cache": str(self.store / "cache"), "cache_gb": 1.0, "cache_users": 1, "log_every": 1,
            "checkpoint_seconds": 0.0, "progress": None, "tracking_run": self.run,
        }  # fmt: skip

    def train(self, *, lost_at: int | None = None) -> None:
        """Go on from the last commit to the end, or until the worker is lost."""
        run = Doomed(LoopSettings(**self.settings), rank=0, world=1, device="cpu")
        run.last = lost_at or run.last
        run.resume()
        try:
            run.train(lambda entry, metrics: None)
        except Lost:
            assert lost_at is not None
        for entry in run.history:
            self.times.setdefault(int(entry["step"]), int(entry["time"]))

    def forward(self) -> None:
        """What another command does that finds the journal."""
        Forwarder(self.uri, open_storage(self.store), [self.run]).forward()

    def found(self) -> dict[str, list[tuple[int, int]]]:
        """(step, time) of every point that MLflow has, by metric."""
        client = Tracker(self.uri).client
        names = client.get_run(self.run).data.metrics
        return {
            name: sorted((p.step, p.timestamp) for p in client.get_metric_history(self.run, name)) for name in names
        }

    def missing_and_doubled(self) -> tuple[int, int]:
        steps = {name: Counter(step for step, _ in points) for name, points in self.found().items()}
        there = sum(len(each) for each in steps.values())
        return METRICS * STEPS - there, sum(each.total() for each in steps.values()) - there

    def assert_journalled(self) -> None:
        """Every step waits in the store."""
        there = {step for _, batch in self.journal.batches() for _, _, step, _ in batch}
        assert there == set(range(1, STEPS + 1))

    def assert_whole(self) -> None:
        """Every step of every metric once, of the time at which it was measured first."""
        expected = sorted(self.times.items())
        assert [step for step, _ in expected] == list(range(1, STEPS + 1))
        found = self.found()
        assert len(found) == METRICS
        assert all(points == expected for points in found.values())


@pytest.fixture(scope="session")
def tracked_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a data node."""
    folder = tmp_path_factory.mktemp("tracked") / "shards"
    ingest_drawn(folder, seed=0, forms=make_forms([(8, "png")]), train=50, val=10, shard_size=32)
    return folder.parent


@pytest.fixture
def training(tracked_images: Path, tmp_path: Path) -> Callable[[str, str], Training]:
    """``training(uri, key)``: one of its own, with a run there."""
    return lambda uri, key: Training(uri, tracked_images, tmp_path / key, key)


@pytest.fixture
def straight_to_mlflow() -> Callable[[str], Callable[[Journal, list[Point]], None]]:
    """What metrics did without a journal, to be put in the place of ``Journal.append``."""
    return _straight_to_mlflow


def _straight_to_mlflow(uri: str) -> Callable[[Journal, list[Point]], None]:
    """Instead of ``Journal.append``: what does not arrive at once is gone."""

    def send(journal: Journal, points: list[Point]) -> None:
        try:
            Sender(Tracker(uri)).send(journal.run, points)
        except MlflowException as error:
            if not unavailable(error):
                raise

    return send
