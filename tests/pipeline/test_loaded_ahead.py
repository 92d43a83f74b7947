"""What is imported ahead is what nodes import, in processes that nodes are then given."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from pipeline.experiment import load_experiment
from pipeline.loaded_ahead import load_ahead, modules_of
from pipeline.nodes import Nodes

TEXT = """
name: ahead
data: {kind: drawn, size: 8, train: 16, val: 8}
stages:
  base: {size: 8, net: {kind: unet, channels: 8, multipliers: [1], blocks: 1}, training: {steps: 2, batch_size: 4}}
evaluation: {samples: 4, reference: 8}
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    (tmp_path / "ahead.yaml").write_text(TEXT)
    return Nodes(load_experiment(tmp_path / "ahead.yaml", [f"store={tmp_path}"]))


def test_only_what_trains_needs_ray_train(nodes: Nodes) -> None:
    assert modules_of([nodes.data]) == {"pipeline.data.datasets"}
    assert modules_of([nodes.data, nodes.train("base")]) == {
        "pipeline.data.datasets", "pipeline.training", "ray.train.torch",
    }  # fmt: skip


@pytest.mark.ray
def test_a_task_finds_a_process_that_has_them(nodes: Nodes, ray_cluster: None) -> None:
    import ray

    @ray.remote(num_cpus=1)
    def loaded() -> tuple[int, bool]:
        return os.getpid(), "pipeline.training" in sys.modules

    load_ahead([nodes.data, nodes.train("base")])
    until = time.monotonic() + 60.0
    while not (found := ray.get(loaded.remote()))[1]:
        assert time.monotonic() < until, f"process {found[0]} has not imported it"
        time.sleep(0.1)
