"""What results cost, in seconds of the devices that they held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.ablation.costs import Costs, Device, device_seconds
from pipeline.dag import Node
from pipeline.experiment import load_experiment
from pipeline.nodes import Nodes
from pipeline.results import Result

TEXT = """\
name: costs
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3}
evaluation: {samples: 24, reference: 60, classifier: {steps: 5, channels: [8, 8]}}
search: {samples: 20, space: {stages.base.sampling.steps: {values: [2, 3]}}}
"""
GPUS = "resources={workers: 4, gpus_per_worker: 1, cpus_per_worker: 8, sampling_workers: 3, threads: 2"
GPUS += ", gpus_per_sampling_worker: 0.5}"
CPUS = "resources={workers: {min: 1, max: 4}, cpus_per_worker: 2, sampling_workers: 3, threads: 2}"
ALONE = "resources={workers: 1, cpus_per_worker: 2, sampling_workers: 1}"


def nodes(folder: Path, *settings: str) -> Nodes:
    (folder / "costs.yaml").write_text(TEXT)
    return Nodes(load_experiment(folder / "costs.yaml", [f"store={folder}", *settings]))


def seconds(node: Node, device: Device, folder: Path, **summary: Any) -> float:
    return device_seconds(node, Result(folder, summary, 60.0, reused=True), device)


@pytest.mark.parametrize(
    ("resources", "device", "expected"),
    [
        (GPUS, "GPU", 10.0 * 4),
        (GPUS, "CPU core", 10.0 * 4 * 8),
        (CPUS, "CPU core", 10.0 * 4 * 2),
        (ALONE, "CPU core", 20),
    ],
)
def test_a_training_took_what_it_trained_of_all_workers(
    resources: str, device: Device, expected: float, tmp_path: Path
) -> None:
    # 60 seconds by the clock of the attempt that ended, most of them spent waiting for places.
    assert seconds(nodes(tmp_path, resources).train("base"), device, tmp_path, seconds=10.0) == expected


@pytest.mark.parametrize(
    ("resources", "device", "share"), [(GPUS, "GPU", 0.5), (CPUS, "CPU core", 2), (ALONE, "CPU core", 1)]
)
def test_a_draw_took_what_its_parts_computed(resources: str, device: Device, share: float, tmp_path: Path) -> None:
    drawn, workers = nodes(tmp_path, resources).chained("base"), 1 if resources == ALONE else 3

    assert seconds(drawn, device, tmp_path) == 60.0 * share * workers  # where only the time by the clock is known
    (tmp_path / "drawn.json").write_text(json.dumps({"computing_seconds": 33.0}))
    assert seconds(drawn, device, tmp_path) == 33.0 * share


def test_what_holds_no_gpu_takes_none_of_its_seconds(tmp_path: Path) -> None:
    made = nodes(tmp_path, GPUS)
    for node in (made.data, made.judge, made.scores("chained", "base")):
        assert seconds(node, "GPU", tmp_path) == 0.0
        assert seconds(node, "CPU core", tmp_path) == 60.0


def test_a_search_took_its_rounds(tmp_path: Path) -> None:
    drawn = {"kind": "sampling", "sharing": {"wall_seconds": 8.0}, "points": [{"cost_hours": 0.0}]}
    trained = {
        "kind": "training",
        "sharing": {"wall_seconds": 8.0},
        "points": [{"cost_hours": 0.25}, {"error": "lost"}],
    }
    search = nodes(tmp_path, GPUS).search()

    assert seconds(search, "GPU", tmp_path, rounds=[drawn, trained]) == 8.0 * 3 * 0.5 + 900.0
    more = nodes(tmp_path, GPUS, "search.concurrency=8").search()  # as many actors, however many workers draw samples
    assert seconds(more, "GPU", tmp_path, rounds=[drawn]) == 8.0 * 8 * 0.5


def test_what_several_cells_use_is_reused_and_counts_once() -> None:
    used = {("a", 0): frozenset("xyt"), ("a", 1): frozenset("z"), ("b", 0): frozenset("xt"), ("b", 1): frozenset()}
    clock = {"x": 0.1, "y": 0.2, "z": 0.3, "t": 0.4}
    costs = Costs({"x": 1.0, "y": 10.0, "z": 100.0, "t": 1000.0}, clock, used, frozenset("t"), "GPU")

    assert costs.of_cell("a") == (110.0, 1001.0)
    assert costs.of_cell("b") == (0.0, 1001.0)
    assert costs.of_replicate("a", 0) == 1011.0
    assert costs.clock_of_replicate("a", 0) == pytest.approx(0.7)
    sharing = costs.sharing(wall_seconds=7.0)
    assert (sharing.spent_seconds, sharing.separate_seconds, sharing.saved_seconds) == (1111.0, 2112.0, 1001.0)
    assert (sharing.trainings_run, sharing.trainings_asked) == (1, 2)
    assert (sharing.wall_seconds, sharing.device) == (7.0, "GPU")
