"""Commits around an announced loss, without Ray: at once, once for each node, and none that would be cut off."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.commits import CommitLog
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.preemption import CommitTimes, Notice, OwnNode, announced_to
from pipeline.stage_run import StageRun
from pipeline.storage import open_storage
from pipeline.worker_settings import LoopSettings

STEPS = 12
FIRST, SECOND = Notice(frozenset({"a"})), Notice(frozenset({"a", "b"}))


def test_a_notice_is_answered_once_for_each_node() -> None:
    times = CommitTimes(every=1e9)
    answers = [times.due(notice) for notice in (None, FIRST, FIRST, SECOND, SECOND, FIRST)]
    assert answers == [False, True, False, True, False, False]


@pytest.mark.parametrize(("left", "due"), [(0.3, False), (60.0, True), (math.inf, True)])
def test_no_routine_commit_is_started_that_the_deadline_would_cut_off(left: float, due: bool) -> None:
    times = CommitTimes(every=0.0, clock=lambda: 1000.0)
    times.begun()
    with times.writing():
        time.sleep(0.2)
    assert times.due(None)
    notice = Notice(frozenset({"a"}), deadline=1000.0 + left)
    assert times.due(notice), "the first commit after a notice is made whatever is left"
    assert times.due(notice) == due


@dataclass
class Told:
    """Announces a loss from the ``after``th question on."""

    after: int
    deadline: float = math.inf
    asked: int = 0

    def __call__(self) -> Notice | None:
        self.asked += 1
        return Notice(frozenset({"a"}), self.deadline) if self.asked > self.after else None


def committed(folder: Path, told: Told, **changes: Any) -> list[int]:
    """The steps that a training commits which is told of a loss."""
    ingest_drawn(folder / "shards", seed=0, forms=make_forms([(8, "png")]), train=50, val=10, shard_size=32)
    plain: dict[str, Any] = {
        "stage": {
            "name": "base", "size": 8,
            "net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8},
        },
        "training": {"steps": STEPS, "batch_size": 8, "warmup": 2, "ema": 0.9},
        "seed": 0, "data": str(folder), "shuffle": {"window": 16, "lanes": 1},
        "storage": str(folder / "store"), "run": "runs/base", "threads": 1, "loader_processes": 0,
        "cache": str(folder / "cache"), "cache_gb": 1.0, "cache_users": 1, "log_every": 2,
        "checkpoint_seconds": 1e9, "progress": None, "tracking_run": None,
    }  # fmt: skip
    settings = LoopSettings(**{**plain, **changes})
    run = StageRun(settings, rank=0, world=1, device="cpu")
    run.resume()
    run.train(lambda entry, metrics: None, told)
    log = CommitLog(open_storage(settings.storage), settings.run, owner="test", clock=time.time)
    return [entry.info["step"] for entry in log.entries() if entry.kind == "commit"]


def test_a_training_commits_at_the_next_step_that_it_logs_and_goes_on(tmp_path: Path) -> None:
    told = Told(after=2)
    assert committed(tmp_path, told) == [6, STEPS]
    assert told.asked == STEPS // 2 - 1, "asked at each logged step but the last, which commits anyway"


def test_a_commit_for_a_loss_replaces_the_routine_ones_up_to_the_deadline(tmp_path: Path) -> None:
    told = Told(after=2, deadline=time.time() - 1.0)
    assert committed(tmp_path, told, checkpoint_seconds=0.0) == [2, 4, 6, STEPS]


@pytest.mark.ray
def test_a_worker_that_is_alone_asks_for_its_own_node(ray_cluster: None) -> None:
    node = OwnNode(every=0.0)
    assert node.notice() is None
    assert announced_to(1)() is None
