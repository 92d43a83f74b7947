"""What the report says of an augmentation level agrees with the schedules that use it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.collecting import _cosine_logsnr, _ddpm_step
from pipeline.grids import class_grid
from stages.schedules import Cosine


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_logsnr_of_a_level_is_the_schedule_s(level: float) -> None:
    expected = float(Cosine(-12.0, 14.0, 0.7)(torch.tensor(level, dtype=torch.float64)))
    assert _cosine_logsnr(level, -12.0, 14.0, 0.7) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("step", [101 / 4, 1001 / 4, 500.0])
def test_ddpm_step_inverts_the_cosine_schedule_with_offset(step: float) -> None:
    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    share = alpha_bar(step / 1000) / alpha_bar(0)
    assert _ddpm_step(math.log(share / (1 - share))) == pytest.approx(step, abs=1e-6)


def test_grid_has_a_row_per_class() -> None:
    import io

    from PIL import Image

    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)])
    grid = np.asarray(Image.open(io.BytesIO(class_grid(images, np.array([0, 1, 0, 1, 2]), 3, columns=2))))
    assert grid.shape == (3 * 64, 2 * 64, 3)
    assert grid[32::64, 32::64, 0].tolist() == [[10, 30], [20, 40], [50, 255]]
