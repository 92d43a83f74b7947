"""Samplers, with the exact denoiser of data whose distribution is known: they reach it, at the order claimed.

In one dimension the probability flow keeps every quantile. So the truth that the deterministic samplers follow is known
in closed form, trajectory by trajectory: where it starts at the p-quantile of the noisy data it ends at the p-quantile
of the data, and no finer solution is needed as a reference. For Gaussian data E[x | z] is linear in z, and a recursion
over the grid gives the moments of the stochastic samplers' output exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.process import alpha_sigma, diffuse, posterior
from stages.randomness import KeyedDraws
from stages.samplers import Noise, Point, StepRule, sample, step_rule
from stages.schedules import Cosine, Piecewise, linear_beta_knots, sampling_grid
from stages.stage import Prediction

INF = torch.tensor(torch.inf, dtype=torch.float64)
DETERMINISTIC = {"ddim": {}, "dpmpp_2m": {}, "heun": {}}
STOCHASTIC = {
    "ddim eta 0.5": {"sampler": "ddim", "eta": 0.5},
    "ancestral posterior": {"sampler": "ancestral"},
    "ancestral beta": {"sampler": "ancestral", "variance": "beta"},
}
ALL = [*DETERMINISTIC, *STOCHASTIC]
COSINE, LINEAR = Cosine(), linear_beta_knots(1000, 1e-4, 0.02)


def rule_of(name: str) -> StepRule:
    settings: dict[str, Any] = {"sampler": name, "eta": 0.0, "variance": "posterior", **STOCHASTIC.get(name, {})}
    return step_rule(settings.pop("sampler"), **settings)


class Mixture:
    """A mixture of Gaussians in one dimension, applied to every element of z by itself."""

    def __init__(self, weights: list[float], means: list[float], spreads: list[float]) -> None:
        self.weights, self.means, self.spreads = (
            torch.tensor(v, dtype=torch.float64) for v in (weights, means, spreads)
        )
        self.calls = 0

    def __call__(self, z: Tensor, logsnr: Tensor) -> Prediction:
        """E[x | z]: each component's posterior mean, weighted by its share in z."""
        self.calls += 1
        alpha, sigma = alpha_sigma(logsnr)
        variance = alpha**2 * self.spreads**2 + sigma**2
        off = z.unsqueeze(-1) - alpha * self.means
        share = (self.weights.log() - 0.5 * variance.log() - 0.5 * off**2 / variance).softmax(-1)
        return Prediction((share * (self.means + alpha * self.spreads**2 / variance * off)).sum(-1).to(z.dtype))

    def quantiles(self, shares: Tensor, logsnr: Tensor) -> Tensor:
        """Of the data noised to ``logsnr``, by bisection of the distribution function."""
        alpha, sigma = alpha_sigma(logsnr)
        spread = (alpha**2 * self.spreads**2 + sigma**2).sqrt()
        low, high = torch.full_like(shares, -10.0), torch.full_like(shares, 10.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = torch.special.ndtr((middle.unsqueeze(-1) - alpha * self.means) / spread) @ self.weights < shares
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return low


MIXTURE = Mixture([0.5, 0.3, 0.2], [-0.7, 0.1, 0.8], [0.15, 0.1, 0.2])
MEAN, SPREAD = 0.6, 0.35
GAUSSIAN = Mixture([1.0], [MEAN], [SPREAD])


def shares(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def keyed(count: int, seed: int = 0) -> Noise:
    draws, indices = KeyedDraws(seed, "test"), torch.arange(count)
    return lambda purpose, step: draws.normal(purpose, step, indices, (1, 1, 4)).double()


def no_noise(purpose: str, step: int) -> Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


def distance(found: Tensor, mixture: Mixture, logsnr: Tensor) -> float:
    """Mean difference of the quantiles (the Wasserstein distance)."""
    ordered = found.flatten().sort().values
    return (ordered - mixture.quantiles(shares(len(ordered)), logsnr)).abs().mean().item()


@pytest.mark.parametrize("name", ALL)
def test_every_sampler_reaches_the_mixture_and_stops_on_the_way_at_the_noised_mixture(name: str) -> None:
    # Truncated: the chain stopped at s. Non-truncated: the finished image, noised again. One distribution.
    noise, stop = keyed(1500), COSINE(torch.tensor(0.23, dtype=torch.float64))
    grid = sampling_grid(COSINE, 250)
    x, (z_s,) = sample(MIXTURE, noise("start", 0), grid, rule=rule_of(name), noise=noise, keep=[float(stop)])
    assert distance(x, MIXTURE, INF) < 0.02
    assert distance(z_s, MIXTURE, stop) < 0.02
    assert distance(diffuse(x, noise("again", 0), stop), MIXTURE, stop) < 0.02


def flow_error(name: str, grid: Tensor, *, to_the_data: bool = False) -> float:
    """Mean distance of 50 trajectories along ``grid`` from the exact flow over the same span (or to the data)."""
    start = MIXTURE.quantiles(shares(50), grid[0])
    found, _ = sample(MIXTURE, start, grid, rule=rule_of(name), noise=no_noise)
    last = grid[-2]
    exact = MIXTURE.quantiles(shares(50), INF if to_the_data else last)
    # The step to +inf is the same for every number of steps where the last finite point is: it lands on x_hat.
    return (found - (exact if to_the_data else MIXTURE(exact, last).x_hat)).abs().mean().item()


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_the_error_of_a_trajectory_falls_at_the_order_claimed(name: str, order: int) -> None:
    # A smooth grid: log-SNR evenly spaced from -12 to 10, then +inf.
    counts = (32, 64, 128, 256)
    grids = [torch.cat([torch.linspace(-12, 10, steps, dtype=torch.float64), INF.reshape(1)]) for steps in counts]
    slopes = torch.tensor([flow_error(name, grid) for grid in grids]).log2().diff()
    assert slopes[1:].tolist() == pytest.approx([-order] * 2, abs=0.12), slopes


@pytest.mark.parametrize(("name", "slope"), [("ddim", -0.95), ("dpmpp_2m", -1.8), ("heun", -1.7)])
def test_on_the_grid_of_the_cosine_the_whole_error_falls_as_fast_or_nearly(name: str, slope: float) -> None:
    # Near t = 0 its steps do not shrink in log-SNR (t halves, whatever their number), which costs a logarithm. Here the
    # last finite point moves too, so the last step is judged with the others, against the data themselves.
    first, last = (flow_error(name, sampling_grid(COSINE, steps), to_the_data=True) for steps in (32, 512))
    assert (torch.tensor(last / first).log2() / 4).item() < slope


@pytest.mark.parametrize("steps", [4, 8, 16, 64])
def test_second_order_pays_from_few_steps_on_where_steps_grow(steps: int) -> None:
    # The linear-beta schedule's last steps are its longest in log-SNR.
    grid = sampling_grid(LINEAR, steps)
    plain = flow_error("ddim", grid)
    assert flow_error("heun", grid) < plain
    assert flow_error("dpmpp_2m", grid) < plain


def test_heun_stays_bounded_in_one_step_over_most_of_the_noise() -> None:
    narrow = Mixture([0.5, 0.5], [-0.8, 0.8], [0.01, 0.01])
    start = narrow.quantiles(shares(50), LINEAR.values[-1])
    for steps in (2, 3, 4, 8):
        found, _ = sample(narrow, start, sampling_grid(LINEAR, steps), rule=rule_of("heun"), noise=no_noise)
        assert found.abs().max() < 0.85


def test_dpmpp_2m_is_the_published_formula_on_even_steps() -> None:
    grid = torch.cat([torch.linspace(-10, 8, 12, dtype=torch.float64), INF.reshape(1)])
    z = start = MIXTURE.quantiles(shares(20), grid[0])
    previous: Tensor | None = None
    for logsnr, after in pairwise(grid):  # Lu et al. 2022, algorithm 2, with lambda = logsnr / 2
        x_hat, h = MIXTURE(z, logsnr).x_hat, (after - logsnr) / 2
        ratio = (grid[1] - grid[0]) / 2 / h
        mixed = x_hat if previous is None else (1 + 0.5 / ratio) * x_hat - 0.5 / ratio * previous
        (_, sigma), (alpha_after, sigma_after) = alpha_sigma(logsnr), alpha_sigma(after)
        mixed = x_hat if after == INF else mixed
        z, previous = sigma_after / sigma * z - alpha_after * torch.expm1(-h) * mixed, x_hat
    found, _ = sample(MIXTURE, start, grid, rule=rule_of("dpmpp_2m"), noise=no_noise)
    torch.testing.assert_close(found, z, rtol=1e-10, atol=1e-10)


def gaussian_moments(name: str, steps: int) -> tuple[float, float]:
    """Exact mean and variance of a sampler's output on the Gaussian, by propagating an affine map of z."""
    rule, mean, variance = rule_of(name), torch.zeros(1), torch.ones(1)
    for logsnr, after in pairwise(sampling_grid(COSINE, steps)):

        def step(z: float, noise: float, logsnr: Tensor = logsnr, after: Tensor = after) -> Tensor:
            zs, eps = torch.tensor([[z], [noise]], dtype=torch.float64)
            return rule(Point(zs, logsnr, GAUSSIAN(zs, logsnr)), None, after, GAUSSIAN, lambda: eps)

        offset = step(0.0, 0.0)
        slope, gain = step(1.0, 0.0) - offset, step(0.0, 1.0) - offset
        mean, variance = slope * mean + offset, slope**2 * variance + gain**2
    return float(mean), float(variance)


@pytest.mark.parametrize("name", ["ddim", *STOCHASTIC])
def test_moments_on_a_gaussian_are_reached_at_first_order(name: str) -> None:
    errors = []
    for steps in (64, 128, 256, 512):
        mean, variance = gaussian_moments(name, steps)
        assert mean == pytest.approx(MEAN, abs=2e-3)
        errors.append(abs(variance - SPREAD**2))
    assert errors[-1] < 0.05 * SPREAD**2
    slopes = torch.tensor(errors).log2().diff()
    assert slopes[1:].tolist() == pytest.approx([-1.0] * 2, abs=0.12), slopes


@pytest.mark.parametrize("name", ["ddim", *STOCHASTIC])
def test_samples_have_the_moments_that_the_recursion_gives(name: str) -> None:
    noise = keyed(10_000)
    x, _ = sample(GAUSSIAN, noise("start", 0), sampling_grid(COSINE, 16), rule=rule_of(name), noise=noise)
    mean, variance = gaussian_moments(name, 16)
    error = x.numel() ** -0.5
    assert x.mean().item() == pytest.approx(mean, abs=4 * error * variance**0.5)
    assert x.var().item() == pytest.approx(variance, abs=4 * error * variance * 2**0.5)


def with_fraction(fraction: float) -> Callable[[Tensor, Tensor], Prediction]:
    return lambda z, logsnr: Prediction(MIXTURE(z, logsnr).x_hat, torch.full_like(z, fraction))


def test_what_is_the_same_sampler_gives_the_same_images() -> None:
    noise, grid = keyed(50), sampling_grid(COSINE, 12)

    def images(denoise: Callable[[Tensor, Tensor], Prediction], **rule: Any) -> Tensor:
        return sample(denoise, noise("start", 0), grid, rule=step_rule(**rule), noise=noise)[0]

    posterior_ = images(MIXTURE, sampler="ancestral", eta=0.0, variance="posterior")
    beta = images(MIXTURE, sampler="ancestral", eta=0.0, variance="beta")
    assert (posterior_ - beta).abs().max() > 0.1
    eta_one = images(MIXTURE, sampler="ddim", eta=1.0, variance="posterior")
    torch.testing.assert_close(eta_one, posterior_, rtol=1e-9, atol=1e-9)
    for fraction, fixed in ((0.0, posterior_), (1.0, beta)):
        learned = images(with_fraction(fraction), sampler="ancestral", eta=0.0, variance="learned")
        torch.testing.assert_close(learned, fixed, rtol=1e-9, atol=1e-9)


def test_ancestral_noise_is_keyed_by_step_and_the_last_step_has_none() -> None:
    noise, grid = keyed(20), sampling_grid(COSINE, 6)
    z = noise("start", 0)
    for step, (logsnr, after) in enumerate(pairwise(grid)):
        mean, variance = posterior(z, MIXTURE(z, logsnr).x_hat, logsnr, after)
        z = mean + variance.sqrt() * noise("step", step)
    for variance in ("posterior", "beta"):
        asked: list[tuple[str, int]] = []

        def recorded(purpose: str, step: int, asked: list[tuple[str, int]] = asked) -> Tensor:
            asked.append((purpose, step))
            return noise(purpose, step)

        rule = step_rule("ancestral", eta=0.0, variance=variance)
        found, _ = sample(MIXTURE, noise("start", 0), grid, rule=rule, noise=recorded)
        assert asked == [("step", step) for step in range(5)]
        if variance == "posterior":
            torch.testing.assert_close(found, z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_keeping_levels_leaves_the_finished_images_as_they_are(name: str) -> None:
    noise, grid, rule = keyed(5), sampling_grid(COSINE, 8), rule_of(name)
    start, on_grid = noise("start", 0), float(grid[3])
    MIXTURE.calls = 0
    plain, _ = sample(MIXTURE, start, grid, rule=rule, noise=noise)
    assert MIXTURE.calls == (15 if name == "heun" else 8)
    with_two, kept = sample(MIXTURE, start, grid, rule=rule, noise=noise, keep=[0.1, on_grid])
    assert MIXTURE.calls == (15 + 16 if name == "heun" else 16)  # heun asks once more, at the level off the grid
    _, (alone,) = sample(MIXTURE, start, grid, rule=rule, noise=noise, keep=[0.1])
    reached, _ = sample(MIXTURE, start, grid[:4], rule=rule, noise=noise)
    assert torch.equal(plain, with_two)
    assert torch.equal(kept[0], alone)
    assert torch.equal(kept[1], reached)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("schedule", [COSINE, LINEAR, Piecewise((7.0, 1.0, -9.0))], ids=["cosine", "linear", "own"])
def test_any_number_of_steps_in_single_precision(name: str, schedule: Callable[[Tensor], Tensor]) -> None:
    noise = keyed(6)
    for steps in (1, 2, 3, 7, 40):
        grid = sampling_grid(schedule, steps)
        exact, _ = sample(MIXTURE, noise("start", 0), grid, rule=rule_of(name), noise=noise)
        single, _ = sample(
            MIXTURE, noise("start", 0).float(), grid, rule=rule_of(name), noise=lambda *key: noise(*key).float()
        )
        assert single.dtype == torch.float32
        assert exact.abs().max() < 3.0  # and finite
        torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-3)
        if steps == 1:
            torch.testing.assert_close(exact, MIXTURE(noise("start", 0), grid[0]).x_hat)


def test_a_level_outside_the_grid_is_refused() -> None:
    for stop in (-20.0, torch.inf):
        with pytest.raises(ValueError, match="outside the sampling grid"):
            sample(
                GAUSSIAN, torch.zeros(1), sampling_grid(COSINE, 4), rule=rule_of("ddim"), noise=no_noise, keep=[stop]
            )
