"""Searches: rounds, grids, and a search of how a stage is trained on a real Ray cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import workflow
from pipeline.events import Silence
from pipeline.experiment import load_experiment, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.search import grid_of, rounds_of, shared_nodes, targets_of

TEXT = """\
name: tiny
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 3, batch_size: 8}
    sampling: {steps: 2}
  sr:
    size: 16
    low_res_size: 8
    net: {channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 3, batch_size: 8}
    sampling: {steps: 2}
evaluation: {samples: 16, reference: 60, block: 16, classifier: {steps: 3, channels: [8, 8]}}
search:
  samples: 16
  space:
    stages.base.sampling.steps: {values: [2, 3]}
    stages.sr.sampling.level: {values: [0.0, 0.2]}
    stages.sr.sampling.augmentation: {values: [truncated, non_truncated]}
resources: {cpus_per_worker: 0.5, log_every: 1}
"""


def load(folder: Path, *overrides: str) -> Experiment:
    (folder / "tiny.yaml").write_text(TEXT)
    return load_experiment(folder / "tiny.yaml", [f"store={folder / 'store'}", *overrides])


def test_stagewise_rounds_go_up_the_cascade_and_joint_is_one(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert [(stage, len(paths)) for stage, paths in rounds_of(experiment)] == [("base", 1), ("sr", 2)]
    assert [(stage, len(paths)) for stage, paths in rounds_of(load(tmp_path, "search.mode=joint"))] == [("sr", 3)]


def test_grid_is_every_combination(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert experiment.search is not None
    paths = ["stages.sr.sampling.level", "stages.sr.sampling.augmentation"]
    assert [tuple(trial.values()) for trial in grid_of(experiment.search, paths)] == [
        (0.0, "truncated"),
        (0.0, "non_truncated"),
        (0.2, "truncated"),
        (0.2, "non_truncated"),
    ]


def test_trials_of_sampling_share_everything_below_the_stage(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    path = "stages.sr.sampling.level"
    trials = [targets_of(with_settings(experiment, {path: level}), "sr") for level in (0.0, 0.2)]
    shared = {node.name for node in shared_nodes(trials)}
    assert {"samples/base", "train/base", "train/sr", "real/train/16", "classifier/judge"} <= shared
    assert not shared & {"samples/sr", "oracle/sr", "scores/chained/sr"}


@pytest.mark.slow
@pytest.mark.ray
def test_training_settings_are_searched_by_the_same_section(tmp_path: Path, ray_cluster: None) -> None:
    space = "search.space={stages.sr.augmentation.noise.levels: {values: [[0.0, 0.2], [0.0, 0.4]]}}"
    figures = workflow.run(load(tmp_path, space), "report", events=Silence())
    runs = [path.name for path in (tmp_path / "store" / "runs").iterdir()]
    assert len([name for name in runs if name.startswith("train-sr")]) == 2  # one training for each range
    assert len([name for name in runs if name.startswith("train-base")]) == 1
    assert figures["chosen"]["stages.sr.augmentation.noise.levels"] in ([0.0, 0.2], [0.0, 0.4])
    assert "stages.sr.augmentation.noise.levels" in Path(figures["report"]).read_text()
