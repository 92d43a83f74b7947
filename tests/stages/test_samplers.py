"""Samplers, with the exact denoiser of a known Gaussian: they reach its mean and variance.

For x ~ N(m, c^2) per pixel, E[x | z] is linear in z, so a sampler's output has moments that a recursion over the
grid gives exactly; and as steps grow they tend to m and c^2.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from stages.process import alpha_sigma
from stages.randomness import KeyedDraws
from stages.samplers import STEP_RULES, Denoise, Sampler, sample
from stages.schedules import Cosine, sampling_grid

MEAN, SPREAD = 0.6, 0.35


def gaussian_denoiser(mean: float, spread: float) -> Denoise:
    """E[x | z] for x ~ N(mean, spread^2): the posterior mean of a linear Gaussian observation."""

    def denoise(z: torch.Tensor, logsnr: torch.Tensor) -> torch.Tensor:
        alpha, sigma = alpha_sigma(logsnr)
        gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        return mean + gain * (z - alpha * mean)

    return denoise


def moments(sampler: Sampler, steps: int) -> tuple[float, float]:
    """Exact mean and variance of a sampler's output on the Gaussian, by propagating an affine map of z."""
    denoise = gaussian_denoiser(MEAN, SPREAD)
    grid = sampling_grid(Cosine(), steps)
    mean, variance = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    rule = STEP_RULES[sampler]
    for logsnr, after in pairwise(grid):

        def step(z: float, noise: float, logsnr: torch.Tensor = logsnr, after: torch.Tensor = after) -> torch.Tensor:
            zs = torch.full((1,), z, dtype=torch.float64)
            return rule(zs, denoise(zs, logsnr), logsnr, after, torch.full_like(zs, noise))

        offset = step(0.0, 0.0)
        slope, gain = step(1.0, 0.0) - offset, step(0.0, 1.0) - offset
        mean, variance = slope * mean + offset, slope**2 * variance + gain**2
    return float(mean), float(variance)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_sampler_reaches_the_gaussian_and_faster_with_more_steps(sampler: Sampler) -> None:
    errors = []
    for steps in (32, 64, 128, 256):
        mean, variance = moments(sampler, steps)
        assert mean == pytest.approx(MEAN, abs=2e-3)
        errors.append(abs(variance - SPREAD**2))
    assert errors[-1] < 0.05 * SPREAD**2
    slopes = torch.tensor(errors).log2().diff()
    assert torch.all(slopes < 0)
    assert slopes[-1] < -0.85, f"the error of a first-order sampler halves with the step: {slopes}"


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_samples_have_the_moments_that_the_recursion_gives(sampler: Sampler) -> None:
    draws = KeyedDraws(0, "test")
    indices = torch.arange(4000)

    def noise(purpose: str, step: int) -> torch.Tensor:
        return draws.normal(purpose, step, indices, (1, 4, 4))

    x, _ = sample(
        gaussian_denoiser(MEAN, SPREAD),
        noise("start", 0),
        sampling_grid(Cosine(), 16),
        rule=STEP_RULES[sampler],
        noise=noise,
    )
    mean, variance = moments(sampler, 16)
    error = x.numel() ** -0.5
    assert x.mean().item() == pytest.approx(mean, abs=4 * error * variance**0.5)
    assert x.var().item() == pytest.approx(variance, abs=4 * error * variance * 2**0.5)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_truncated_and_non_truncated_agree_in_distribution(sampler: Sampler) -> None:
    # With an exact denoiser z_s of the chain and the re-noised image are both N(alpha m, alpha^2 c^2 + sigma^2).
    draws = KeyedDraws(1, "test")
    indices = torch.arange(10_000)
    stop = Cosine()(torch.tensor(0.23, dtype=torch.float64))

    def noise(purpose: str, step: int) -> torch.Tensor:
        return draws.normal(purpose, step, indices, (1, 2, 2))

    x, (z_s,) = sample(
        gaussian_denoiser(MEAN, SPREAD),
        noise("start", 0),
        sampling_grid(Cosine(), 1024),
        rule=STEP_RULES[sampler],
        noise=noise,
        keep=[float(stop)],
    )
    alpha, sigma = (float(scale) for scale in alpha_sigma(stop))
    renoised = alpha * x + sigma * noise("again", 0)
    for z in (z_s, renoised):
        assert z.mean().item() == pytest.approx(alpha * MEAN, abs=0.01)
        assert z.var().item() == pytest.approx(alpha**2 * SPREAD**2 + sigma**2, rel=0.02)


def test_keeping_levels_leaves_the_finished_images_as_they_are() -> None:
    denoise = gaussian_denoiser(MEAN, SPREAD)
    grid, z = sampling_grid(Cosine(), 8), torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    draws = KeyedDraws(2, "test")

    def noise(purpose: str, step: int) -> torch.Tensor:
        return draws.normal(purpose, step, torch.arange(5), (1, 2, 2))

    plain, _ = sample(denoise, z, grid, rule=STEP_RULES["ancestral"], noise=noise)
    with_two, kept = sample(denoise, z, grid, rule=STEP_RULES["ancestral"], noise=noise, keep=[0.1, float(grid[3])])
    _, (alone,) = sample(denoise, z, grid, rule=STEP_RULES["ancestral"], noise=noise, keep=[0.1])
    assert torch.equal(plain, with_two)
    assert torch.equal(kept[0], alone)


def test_a_level_outside_the_grid_is_refused() -> None:
    z = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="outside the sampling grid"):
        sample(
            gaussian_denoiser(0.0, 1.0),
            z,
            sampling_grid(Cosine(), 4),
            rule=STEP_RULES["ddim"],
            noise=lambda purpose, step: torch.zeros_like(z),
            keep=[-20.0],
        )
