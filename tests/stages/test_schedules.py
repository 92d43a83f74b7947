"""Schedules: bounded, strictly decreasing, equal to their formula."""

from __future__ import annotations

import math

import pytest
import torch

from stages.process import alpha_sigma
from stages.schedules import Cosine, logsnr_of_level, sampling_grid


@pytest.mark.parametrize("shift", [0.0, 2 * math.log(64 / 128), 2.0])
def test_cosine_runs_exactly_between_its_bounds_and_falls(shift: float) -> None:
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    logsnr = Cosine(-12.0, 9.0, shift)(t)
    assert torch.all(logsnr.diff() < 0)
    torch.testing.assert_close(logsnr[[0, -1]], torch.tensor([9.0, -12.0], dtype=torch.float64))


def test_cosine_is_alpha_cos_sigma_sin() -> None:
    # With bounds so wide that they do not matter, alpha = cos(pi t / 2) and sigma = sin(pi t / 2).
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    alpha, sigma = alpha_sigma(Cosine(-60.0, 60.0)(t))
    torch.testing.assert_close(alpha, torch.cos(math.pi * t / 2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sigma, torch.sin(math.pi * t / 2), rtol=1e-9, atol=1e-9)


def test_shift_adds_to_logsnr_away_from_the_bounds() -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    plain, shifted = Cosine(-60.0, 60.0)(t), Cosine(-60.0, 60.0, shift=-1.386)(t)
    torch.testing.assert_close(shifted - plain, torch.full_like(t, -1.386), rtol=0, atol=1e-6)


def test_sampling_grid_increases_and_ends_clean() -> None:
    grid = sampling_grid(Cosine(), 16)
    assert grid.shape == (17,)
    assert torch.all(grid[1:] > grid[:-1])
    assert grid[0] == pytest.approx(-15.0)
    assert alpha_sigma(grid[-1]) == (1.0, 0.0)


def test_grid_and_level_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        sampling_grid(Cosine(), 0)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        logsnr_of_level(Cosine(), 1.5)
    assert logsnr_of_level(Cosine(), 0.0) == pytest.approx(15.0)
