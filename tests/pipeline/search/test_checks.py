"""Looks that would say nothing, or would never be, are refused before anything is drawn or trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.errors import UserError
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.search.checks import check_screening


def test_a_first_look_that_says_nothing_is_refused(tmp_path: Path) -> None:
    def screened(samples: int, block: int = 16) -> Experiment:
        search = {"screening": {"samples": samples}}
        return swept_experiment(tmp_path, 2, samples=48, channels=8, block=block, search=search)

    check_screening(screened(40, block=8))
    with pytest.raises(ValueError, match=r"whole blocks of evaluation\.block 16, 48 samples, and search\.samples 48"):
        check_screening(screened(40))
    with pytest.raises(ValueError, match="has an error from 40 samples on, and the first look has 32; raise it"):
        check_screening(screened(32))


TEXT = """\
name: tiny
data: {kind: drawn, size: 16, train: 80, val: 60}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8}
    training: {steps: 30, batch_size: 8}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 12, batch_size: 8}
evaluation: {samples: 16, reference: 60, block: 16, classifier: {steps: 3, channels: [4, 4]}}
"""
RATE = "training.learning_rate: {values: [0.1, 0.2]}"
LEVEL = "stages.sr.sampling.level: {values: [0.1, 0.2]}"
BOTH = f"{{stages.base.{RATE}, {LEVEL}}}"
OF_SR = f"{{stages.sr.{RATE}}}"


def load(folder: Path, search: str) -> Experiment:
    (folder / "tiny.yaml").write_text(TEXT)
    return load_experiment(folder / "tiny.yaml", [f"store={folder / 'store'}", f"search={{samples: 60, {search}}}"])


@pytest.mark.parametrize(
    "search",
    [
        f"pruning: {{first: 3, samples: 16, reference: 40}}, space: {OF_SR}",
        f"pruning: {{first: 15, samples: 16, reference: 40}}, space: {BOTH}",
        "pruning: {first: 15, samples: 16, reference: 40}, space: {stages.sr.training.steps: {values: [12, 40]}}",
        # Another schedule of the base is another training of the stage that is scored.
        "mode: joint, pruning: {first: 3, samples: 16, reference: 40}, "
        "space: {stages.base.schedule: {values: [{kind: cosine}, {kind: linear_beta}]}}",
        f"screening: {{samples: 42}}, space: {BOTH}",
    ],
)
def test_looks_that_will_be_are_taken(tmp_path: Path, search: str) -> None:
    assert load(tmp_path, search).search is not None


@pytest.mark.parametrize(
    ("search", "told"),
    [
        (f"pruning: {{first: 3}}, space: {{{LEVEL}}}", "no setting of search.space trains a stage; remove it"),
        (f"screening: {{samples: 42}}, space: {OF_SR}", "every round of search.space trains; remove it"),
        (f"pruning: {{first: 12}}, space: {OF_SR}", r"first 12: trainings have no more steps \(12 of stages.sr\)"),
        (f"mode: joint, pruning: {{first: 3}}, space: {BOTH}", "looks at the training of sr, which no setting of"),
        (f"pruning: {{first: 3, samples: 8}}, space: {OF_SR}", "samples 8: FID in the classifier's 8 features needs"),
        (f"pruning: {{first: 3, reference: 7}}, space: {OF_SR}", "reference 7: .* give at least 9"),
    ],
)
def test_looks_that_say_nothing_or_never_are_are_refused(tmp_path: Path, search: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load(tmp_path, search)
