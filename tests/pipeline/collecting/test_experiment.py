"""What the report says of an augmentation level agrees with the schedules that use it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.levels import ddpm_step, facts_of_level
from pipeline.report.grids import class_grid
from stages.schedules import Cosine


def load(folder: Path, schedule: str) -> Experiment:
    """A cascade of 8 and 16 px whose base stage has ``schedule``."""
    stage = "net: {kind: unet, channels: 8}, training: {steps: 1, batch_size: 8}"
    (folder / "x.yaml").write_text(
        "name: x\ndata: {kind: drawn, size: 16}\nstages:\n"
        f"  base: {{size: 8, schedule: {schedule}, {stage}}}\n"
        f"  sr: {{size: 16, low_res_size: 8, augmentation: {{noise: {{levels: [0, 1]}}}}, {stage}}}\n"
    )
    return load_experiment(folder / "x.yaml")


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_a_level_is_told_in_the_schedule_of_the_stage_below_at_its_size(tmp_path: Path, level: float) -> None:
    experiment = load(tmp_path, "{logsnr_min: -12, logsnr_max: 14, shift: 0.7}")
    found = facts_of_level(experiment, "sr", level)
    assert found.logsnr == pytest.approx(
        float(Cosine(-12.0, 14.0, 0.7)(torch.tensor(level, dtype=torch.float64))), rel=1e-9
    )
    assert found.of_steps == 1000
    assert found.step == pytest.approx(ddpm_step(found.logsnr))
    shifted = facts_of_level(load(tmp_path, "{kind: shifted_cosine, reference: 32}"), "sr", 0.5)
    assert shifted.logsnr == pytest.approx(2 * math.log(32 / 8), abs=0.01)


def test_a_schedule_of_steps_is_told_in_its_own(tmp_path: Path) -> None:
    experiment = load(tmp_path, "{kind: cosine_beta, steps: 4001}")
    assert facts_of_level(experiment, "sr", 0.0)[1:] == (0.0, 4001)
    assert facts_of_level(experiment, "sr", 0.25)[1:] == (1001.0, 4001)
    assert facts_of_level(experiment, "sr", 1.0)[1:] == (4001.0, 4001)
    assert facts_of_level(experiment, "sr", 0.25).logsnr == pytest.approx(1.71, abs=0.01)  # as with T = 4000


@pytest.mark.parametrize("step", [101 / 4, 1001 / 4, 500.0])
def testddpm_step_inverts_the_cosine_schedule_with_offset(step: float) -> None:
    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    share = alpha_bar(step / 1000) / alpha_bar(0)
    assert ddpm_step(math.log(share / (1 - share))) == pytest.approx(step, abs=1e-6)


def test_grid_has_a_row_per_class() -> None:
    import io

    from PIL import Image

    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)])
    grid = np.asarray(Image.open(io.BytesIO(class_grid(images, np.array([0, 1, 0, 1, 2]), 3, columns=2))))
    assert grid.shape == (3 * 64, 2 * 64, 3)
    assert grid[32::64, 32::64, 0].tolist() == [[10, 30], [20, 40], [50, 255]]
