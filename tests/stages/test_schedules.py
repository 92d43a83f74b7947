"""Schedules: strictly decreasing, equal to their formula, and the shift means what it says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.process import alpha_sigma, diffuse
from stages.schedule_specs import (
    CosineBetaSchedule,
    CosineSchedule,
    InterpolatedCosineSchedule,
    LinearBetaSchedule,
    PiecewiseSchedule,
    ScheduleSpec,
    ShiftedCosineSchedule,
)
from stages.schedules import (
    Cosine,
    InterpolatedCosine,
    Knots,
    Piecewise,
    build_schedule,
    cosine_beta_knots,
    linear_beta_knots,
    logsnr_of_level,
    sampling_grid,
)

SPECS: list[ScheduleSpec] = [
    CosineSchedule(),
    CosineSchedule(logsnr_min=-9.0, logsnr_max=12.0, shift=-1.0),
    ShiftedCosineSchedule(kind="shifted_cosine", reference=64),
    InterpolatedCosineSchedule(kind="interpolated_cosine", references=(32, 256)),
    LinearBetaSchedule(kind="linear_beta"),
    CosineBetaSchedule(kind="cosine_beta", steps=4000),
    PiecewiseSchedule(kind="piecewise", logsnr=(9.0, 3.0, 2.5, -8.0)),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
@pytest.mark.parametrize("size", [64, 512])
def test_every_schedule_falls_preserves_variance_and_keeps_shape_and_dtype(spec: ScheduleSpec, size: int) -> None:
    schedule = build_schedule(spec, size)
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    logsnr = schedule(t)
    assert torch.all(logsnr.diff() < 0)
    assert logsnr.isfinite().all()
    alpha, sigma = alpha_sigma(logsnr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-15)
    for time in (torch.rand(2, 3), torch.tensor(0.5), t[:4].half()):
        found = schedule(time)
        assert found.shape == time.shape
        assert found.dtype == time.dtype
        assert torch.equal(found, schedule(time.double()).to(time.dtype))


@pytest.mark.parametrize("shift", [0.0, 2 * math.log(64 / 128), 2.0])
def test_cosine_runs_exactly_between_its_bounds(shift: float) -> None:
    ends = Cosine(-12.0, 9.0, shift)(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([9.0, -12.0], dtype=torch.float64))


def test_cosine_is_alpha_cos_sigma_sin() -> None:
    # With bounds so wide that they do not matter, alpha = cos(pi t / 2) and sigma = sin(pi t / 2).
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    alpha, sigma = alpha_sigma(Cosine(-60.0, 60.0)(t))
    torch.testing.assert_close(alpha, torch.cos(math.pi * t / 2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sigma, torch.sin(math.pi * t / 2), rtol=1e-9, atol=1e-9)


def test_shift_adds_twice_the_log_of_the_ratio_of_sizes() -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    bounds = {"logsnr_min": -30.0, "logsnr_max": 30.0}  # far enough to leave the middle alone
    plain = build_schedule(CosineSchedule(**bounds), 128)(t)
    shifted = build_schedule(ShiftedCosineSchedule(kind="shifted_cosine", reference=64, **bounds), 128)(t)
    torch.testing.assert_close(shifted - plain, torch.full_like(t, 2 * math.log(64 / 128)), rtol=0, atol=1e-5)
    same = build_schedule(ShiftedCosineSchedule(kind="shifted_cosine", reference=128), 128)
    assert same == build_schedule(CosineSchedule(), 128)


@pytest.mark.parametrize(("size", "low", "high"), [(512, 32, 256), (256, 32, 128), (64, 64, 128)])
def test_interpolation_equals_its_two_shifted_cosines_at_the_ends_and_their_mixture_between(
    size: int, low: int, high: int
) -> None:
    schedule = build_schedule(InterpolatedCosineSchedule(kind="interpolated_cosine", references=(low, high)), size)
    at_low, at_high = Cosine(-15, 15, 2 * math.log(low / size)), Cosine(-15, 15, 2 * math.log(high / size))
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule(t), (1 - t) * at_low(t) + t * at_high(t))
    assert torch.equal(schedule(t)[[0, -1]], torch.stack([at_low(t)[0], at_high(t)[-1]]))
    torch.testing.assert_close(schedule(t)[[0, -1]], torch.tensor([15.0, -15.0], dtype=torch.float64))
    near = torch.tensor([1e-3, 1 - 1e-3], dtype=torch.float64)
    wide = InterpolatedCosine(-60.0, 60.0, at_low.shift, at_high.shift)(near)
    plain = Cosine(-60.0, 60.0)(near)
    torch.testing.assert_close(wide - plain, torch.tensor([at_low.shift, at_high.shift]).double(), rtol=0, atol=5e-3)


def test_interpolation_between_sizes_too_far_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="bring the two reference sizes closer"):
        InterpolatedCosine(-15.0, 15.0, 2 * math.log(8 / 256), 0.0)
    InterpolatedCosine(-15.0, 15.0, 2 * math.log(16 / 256), 0.0)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(("size", "reference"), [(128, 64), (256, 64)])
def test_pooling_a_noised_image_gives_the_snr_of_the_smaller_schedule(t: float, size: int, reference: int) -> None:
    # What the shift is for. The notes claim the opposite sign, which would be off by a factor of (size / 64)^4.
    generator = torch.Generator().manual_seed(0)
    spec = ShiftedCosineSchedule(kind="shifted_cosine", reference=reference)
    time = torch.tensor(t, dtype=torch.float64)
    coarse = torch.randn(16, 3, reference, reference, generator=generator)
    x = coarse.repeat_interleave(size // reference, -1).repeat_interleave(size // reference, -2)
    pooled_z, pooled_x = (
        F.avg_pool2d(images, size // reference)
        for images in (diffuse(x, torch.randn(x.shape, generator=generator), build_schedule(spec, size)(time)), x)
    )
    gain = (pooled_z * pooled_x).mean() / pooled_x.square().mean()
    signal, noise = (gain * pooled_x).var(), (pooled_z - gain * pooled_x).var()
    expected = build_schedule(spec, reference)(time).item()
    assert math.log(signal / noise) == pytest.approx(expected, abs=0.03)  # 196,608 pixels: 0.3 % of the variance


def _linear_betas(steps: int) -> np.ndarray:
    return 1e-4 + (0.02 - 1e-4) * np.arange(steps) / (steps - 1)


def _cosine_betas(steps: int) -> np.ndarray:
    bar = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    return np.array([min(1 - after / before, 0.999) for before, after in itertools.pairwise(bar)])


@pytest.mark.parametrize(
    ("knots", "betas"),
    [
        (linear_beta_knots(1000, 1e-4, 0.02), _linear_betas(1000)),
        (cosine_beta_knots(1000, 0.008, 0.999), _cosine_betas(1000)),
        (cosine_beta_knots(4000, 0.008, 0.999), _cosine_betas(4000)),
    ],
)
def test_steps_have_the_alpha_bar_of_their_betas(knots: Knots, betas: np.ndarray) -> None:
    assert knots.steps == len(betas)
    alpha_bar = torch.from_numpy(np.cumprod(1 - betas))
    torch.testing.assert_close(torch.sigmoid(knots.values), alpha_bar, rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.sigmoid(-knots.values), 1 - alpha_bar, rtol=1e-9, atol=0)


def test_cosine_betas_give_the_noise_of_the_levels_tabulated_for_cdm() -> None:
    # Step index s of the paper (1..T) is step s - 1 here; log-SNR worked out by hand from the formula, T = 4000.
    values = cosine_beta_knots(4000, 0.008, 0.999).values
    for s, logsnr in {101: 5.98, 251: 4.41, 501: 3.12, 1001: 1.71, 1251: 1.21, 2001: -0.03}.items():
        assert float(values[s - 1]) == pytest.approx(logsnr, abs=0.005)


def test_the_first_steps_of_the_two_beta_schedules() -> None:
    assert torch.sigmoid(-linear_beta_knots(1000, 1e-4, 0.02).values[0]).item() == pytest.approx(1e-4, rel=1e-12)
    # The offset was chosen so that root beta_1 is a little under the 2 / 255 between two 8-bit values.
    assert 0.5 < torch.sigmoid(-cosine_beta_knots(1000, 0.008, 0.999).values[0]).sqrt().item() * 127.5 < 1.0
    last = cosine_beta_knots(1000, 0.008, 0.999).values[-2:]
    assert torch.sigmoid(last[1]) / torch.sigmoid(last[0]) == pytest.approx(1 - 0.999)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_between_steps_log_snr_is_interpolated_and_step_of_is_the_inverse(dtype: torch.dtype) -> None:
    knots = linear_beta_knots(50, 2e-3, 0.4)
    at_steps = torch.arange(50, dtype=torch.float64) / 49
    torch.testing.assert_close(knots(at_steps), knots.values, rtol=1e-12, atol=0)
    assert torch.equal(knots(at_steps[[0, -1]]), knots.values[[0, -1]])
    t = torch.rand(7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.from_numpy(np.interp(t.numpy() * 49, np.arange(50), knots.values.numpy()))
    torch.testing.assert_close(knots(t), expected, rtol=1e-12, atol=1e-12)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(knots.step_of(knots(t).to(dtype)), (49 * t).to(dtype), rtol=0, atol=tolerance)
    outside = torch.tensor([torch.inf, 99.0, -99.0, -torch.inf], dtype=dtype)
    assert knots.step_of(outside).tolist() == [0.0, 0.0, 49.0, 49.0]
    assert torch.equal(knots.step_of(knots.values), torch.arange(50).double())


@pytest.mark.parametrize("logsnr", [(), (1.0,), (1.0, 1.0), (0.0, 1.0)])
def test_knots_that_do_not_fall_are_refused(logsnr: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="each below the one before"):
        Knots(logsnr)


def test_schedules_are_equal_when_their_numbers_are() -> None:
    assert linear_beta_knots(10, 0.1, 0.5) == linear_beta_knots(10, 0.1, 0.5)
    assert Knots((1.0, 0.0)) != Piecewise((1.0, 0.0))
    assert hash(Knots((1.0, 0.0))) == hash(Knots((1.0, 0.0)))


@pytest.mark.parametrize("make", [Cosine, lambda: Piecewise((15.0, 0.0, -15.0))])
def test_sampling_grid_of_continuous_time_increases_and_ends_clean(make: Callable[[], Cosine | Piecewise]) -> None:
    grid = sampling_grid(make(), 16)
    assert grid.shape == (17,)
    assert grid.dtype == torch.float64
    assert torch.all(grid[1:] > grid[:-1])
    assert grid[0] == pytest.approx(-15.0)
    torch.testing.assert_close(grid[:-1], make()(torch.arange(16, 0, -1, dtype=torch.float64) / 16))
    assert alpha_sigma(grid[-1]) == (1.0, 0.0)


def test_sampling_grid_of_steps_takes_them_all_or_some_or_more() -> None:
    knots = linear_beta_knots(10, 0.05, 0.6)
    assert torch.equal(sampling_grid(knots, 10), torch.cat([knots.values.flip(0), torch.tensor([torch.inf])]))
    assert torch.equal(sampling_grid(knots, 4)[:-1], knots.values[[9, 6, 3, 0]])
    assert torch.equal(sampling_grid(knots, 3)[:-1], knots.values[[9, 4, 0]])
    assert sampling_grid(knots, 1).tolist() == [knots.values[9].item(), torch.inf]
    for steps in range(1, 11):
        assert torch.isin(sampling_grid(knots, steps)[:-1], knots.values).all()
        assert torch.all(sampling_grid(knots, steps).diff() > 0)
    more = sampling_grid(knots, 19)
    torch.testing.assert_close(more[:-1:2], knots.values.flip(0))
    torch.testing.assert_close(more[1:-1:2], (knots.values[1:] + knots.values[:-1]).flip(0) / 2)


def test_grid_and_level_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        sampling_grid(Cosine(), 0)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        logsnr_of_level(Cosine(), 1.5)
    assert logsnr_of_level(Cosine(), 0.0) == pytest.approx(15.0)
