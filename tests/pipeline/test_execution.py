"""Nodes on Ray whose processes are killed, more often than Ray begins a task again by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from pipeline.claims import owner_of
from pipeline.commits import CommitLog
from pipeline.dag import Node, stored
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import load_experiment
from pipeline.nodes import Nodes
from pipeline.storage import Storage, open_storage

RETRIES = 3  # that Ray grants a task whose process was lost
TEXT = """\
name: tiny
data: {kind: drawn, size: 8, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 400, batch_size: 8}
evaluation: {samples: 24, reference: 60}
resources: {cpus_per_worker: 1.0, log_every: 10, checkpoint_seconds: 0.001}
"""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def training(tmp_path: Path) -> Node:
    (tmp_path / "tiny.yaml").write_text(TEXT)
    return Nodes(load_experiment(tmp_path / "tiny.yaml", [f"store={tmp_path}/store"])).train("base")


class Killer(threading.Thread):
    """Kills ``times`` trainers one after the other, each as soon as it owns the run and ``is_time(log)``."""

    def __init__(self, storage: Storage, run: str, times: int, is_time: Callable[[CommitLog, int], bool]) -> None:
        super().__init__(daemon=True)
        self.storage, self.run_name, self.times, self.is_time = storage, run, times, is_time
        self.killed: list[int] = []

    def run(self) -> None:
        log = CommitLog(self.storage, self.run_name, owner="killer", clock=time.time)
        while len(self.killed) < self.times:
            owner = owner_of(self.storage, Path(self.run_name).name)
            told = "" if owner is None else owner.owner.rpartition(":")[2]
            pid = int(told) if told.isdigit() else 0  # who owns it has not said so yet
            if pid and pid not in self.killed and self.is_time(log, pid):
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)
            time.sleep(0.005)


def has_committed(log: CommitLog, pid: int) -> bool:
    newest = log.newest()
    return newest is not None and newest.owner.endswith(f":{pid}")


def test_a_training_goes_on_as_long_as_it_comes_further(ray_cluster: None, training: Node, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "store")
    killer = Killer(storage, training.context["run"], RETRIES + 2, has_committed)
    killer.start()
    execute([training], storage, Silence(), use_ray=True)
    assert len(killer.killed) == RETRIES + 2
    result = stored(training, storage)
    assert result is not None
    assert result.summary["step"] == 400


def test_one_that_comes_no_further_is_given_up(ray_cluster: None, training: Node, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "store")
    killer = Killer(storage, training.context["run"], RETRIES + 2, lambda log, pid: True)
    killer.start()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        execute([training], storage, Silence(), use_ray=True)
    assert len(killer.killed) == RETRIES + 1
