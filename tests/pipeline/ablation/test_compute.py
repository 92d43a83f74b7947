"""FLOPs of cells: those that a plan reckons with, of the stage that is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.ablation.compute import Counted
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.planning import Machine, reckon

TEXT = """
name: computing
data: {kind: drawn, size: 8, train: 16, val: 8}
stages:
  base: {size: 4, net: {kind: unet, channels: 8, multipliers: [1], blocks: 1}, training: {steps: 2, batch_size: 4}}
  sr:
    size: 8
    low_res_size: 4
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1}
    training: {steps: 3, batch_size: 4}
    sampling: {steps: 5, sampler: ddim, guidance: 2.0}
evaluation: {samples: 4, reference: 8}
"""


def experiment_of(folder: Path, *settings: str) -> Experiment:
    (folder / "computing.yaml").write_text(TEXT)
    return load_experiment(folder / "computing.yaml", [f"store={folder}", *settings])


def test_a_cell_computes_what_its_plan_reckons_with(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    plan = reckon(experiment, Machine("h100", 1.0))["plan"]["sr"]
    found = Counted(10).of(experiment)
    assert found.parameters == plan["parameters"]
    assert found.drawn_gflop == pytest.approx(plan["forward_gflops"] * plan["net_calls"])
    assert plan["net_calls"] == 10  # guided: two evaluations a step
    assert found.trained_pflop == pytest.approx(plan["training_gflops"] * 3 * 4 / 1e6)


def test_a_net_is_counted_once_however_it_is_sampled(tmp_path: Path) -> None:
    counted = Counted(10)
    once, twice, other = (
        counted.of(experiment_of(tmp_path, *settings))
        for settings in ((), ("stages.sr.sampling.steps=10",), ("stages.sr.net.channels=16",))
    )
    assert twice.drawn_gflop == pytest.approx(2 * once.drawn_gflop)
    assert len(counted._costs) == 2
    assert other.parameters > once.parameters
