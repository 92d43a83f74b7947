"""The variational bound: exact for an exact model of a Gaussian, and a true description length of 8-bit values."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stages.bound import Bound, decoder_log_likelihood, prior_term, variational_bound, vlb_term
from stages.images import to_float
from stages.process import Variance, alpha_sigma, forward_variance, posterior_variance, variance_floor
from stages.schedules import Cosine, cosine_beta_knots, linear_beta_knots, sampling_grid
from stages.stage import Prediction

BITS = math.log(2.0)
KINDS: tuple[Variance, ...] = ("posterior", "beta", "learned")


class GaussianModel:
    """The exact denoiser of pixels x ~ N(mean, std^2), and the fraction that makes its reverse variance exact.

    The exact p(z_next | z) is Gaussian: its variance is beta-tilde + (alpha_next (1 - r))^2 Var(x | z).
    """

    def __init__(self, mean: float, std: float, grid: Tensor) -> None:
        self.mean, self.std, self.grid, self.floor = mean, std, grid, variance_floor(grid)

    def variance_of_x(self, logsnr: Tensor) -> Tensor:
        return 1.0 / (1.0 / self.std**2 + torch.exp(logsnr))

    def __call__(self, z: Tensor, logsnr: Tensor) -> Prediction:
        alpha, sigma = alpha_sigma(logsnr)
        x_hat = self.variance_of_x(logsnr) * (self.mean / self.std**2 + alpha * z / sigma**2)
        after = self.grid[int((self.grid == logsnr).nonzero()) + 1]
        share = alpha_sigma(after)[0] * -torch.expm1(logsnr - after)
        smallest = posterior_variance(logsnr, after)
        variance = smallest + share**2 * self.variance_of_x(logsnr)
        low = smallest if after.isfinite() else torch.tensor(self.floor, dtype=torch.float64)
        fraction = (variance / low).log() / (forward_variance(logsnr, after) / low).log()
        return Prediction(x_hat=x_hat, variance_fraction=fraction.expand_as(z))


def _signs(mean: float, std: float) -> tuple[Tensor, Callable[[str, int], Tensor]]:
    """Four pixels that stand for all of x ~ N(mean, std^2) and eps ~ N(0, 1): each at mean +- its deviation.

    The mean of a quadratic over the four is its expectation, and every term but the decoder's is quadratic.
    """
    x = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    eps = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    return mean + std * x, lambda purpose, step: eps


def _entropy(std: float) -> float:
    """Bits that an exact model needs for N(mean, std^2) in bins of 2 / 255."""
    return (0.5 * math.log(2 * math.pi * math.e * std**2) + math.log(255 / 2)) / BITS


@pytest.mark.parametrize(
    "grid",
    [
        sampling_grid(linear_beta_knots(50, 0.02, 0.4), 50),
        sampling_grid(linear_beta_knots(50, 0.02, 0.4), 7),
        sampling_grid(Cosine(-12.0, 3.0), 20),
    ],
    ids=["all steps", "some steps", "continuous"],
)
@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.5), (-0.2, 0.25)])
def test_bound_of_an_exact_model_of_a_gaussian_is_the_analytic_value(grid: Tensor, mean: float, std: float) -> None:
    """With the exact reverse steps nothing is lost on the way: KL_k = I(x; z_next) - I(x; z), which telescopes.

    I(x; z) = log(1 + SNR std^2) / 2. The whole is the entropy of x in bins, plus the KL of the marginal of z_first
    from N(0, 1), where sampling begins.
    """
    x, noise = _signs(mean, std)
    bound = variational_bound(GaussianModel(mean, std, grid), x, grid, variance="learned", noise=noise)
    assert bound.steps.shape == (len(grid) - 1, 1)

    information = 0.5 * torch.log1p(torch.exp(grid[:-1]) * std**2) / BITS
    torch.testing.assert_close(bound.steps[:-1, 0], information.diff(), rtol=1e-9, atol=1e-14)
    total = bound.steps[:-1].sum().item()
    assert total == pytest.approx((information[-1] - information[0]).item(), rel=1e-12)

    snr, alpha2 = math.exp(grid[0]), torch.sigmoid(grid[0]).item()
    spread = alpha2 * std**2 + 1 - alpha2
    marginal = 0.5 * (spread + alpha2 * mean**2 - 1 - math.log(spread)) / BITS
    assert bound.prior.item() == pytest.approx(0.5 * math.log1p(snr * std**2) / BITS + marginal, rel=1e-9)
    # The decoder's term is a density times the bin, but for terms of order (bin / deviation of x given z)^2.
    assert bound.total.item() == pytest.approx(_entropy(std) + marginal, abs=2e-3)


def test_fixed_variances_are_exact_for_the_data_they_were_made_for() -> None:
    # beta for unit variance (DDPM, section 3.2) ...
    grid = sampling_grid(Cosine(-12.0, 2.0), 16)
    x, noise = _signs(0.0, 1.0)
    unit = GaussianModel(0.0, 1.0, grid)
    fixed = variational_bound(unit, x, grid, variance="beta", noise=noise)
    information = 0.5 * torch.log1p(torch.exp(grid[:-1])) / BITS
    torch.testing.assert_close(fixed.steps[:-1, 0], information.diff(), rtol=1e-9, atol=1e-14)
    # ... and beta-tilde for a single point, where nothing is left to tell.
    point = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64)
    known = variational_bound(
        lambda z, logsnr: Prediction(x_hat=point, variance_fraction=None),
        point,
        grid,
        variance="posterior",
        noise=noise,
    )
    assert known.steps[:-1].abs().max() == 0.0


@pytest.mark.parametrize("std", [0.25, 0.5])
def test_learned_variance_is_tighter_than_the_fixed_ones(std: float) -> None:
    grid = sampling_grid(Cosine(-12.0, 4.0), 8)
    x, noise = _signs(0.0, std)
    model = GaussianModel(0.0, std, grid)
    totals = {v: variational_bound(model, x, grid, variance=v, noise=noise).total.item() for v in KINDS}
    assert totals["learned"] < min(totals["posterior"], totals["beta"]) - 0.01


def test_bound_of_another_model_is_the_sum_of_gaussian_divergences() -> None:
    # A denoiser that is no one's optimum, against torch.distributions.
    grid = sampling_grid(cosine_beta_knots(12, 0.008, 0.999), 12)
    generator = torch.Generator().manual_seed(0)
    x = to_float(torch.randint(0, 256, (3, 4, 4, 3), generator=generator)).double()
    noises = torch.randn(12, 3, 3, 4, 4, generator=generator, dtype=torch.float64)
    fraction = torch.rand(3, 3, 4, 4, generator=generator, dtype=torch.float64)
    found = variational_bound(
        lambda z, logsnr: Prediction(x_hat=0.5 * z.tanh(), variance_fraction=fraction),
        x,
        grid,
        variance="learned",
        noise=lambda purpose, step: noises[step],
    )
    normal, divergence = torch.distributions.Normal, torch.distributions.kl_divergence
    for k in range(11):
        (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(grid[k]), alpha_sigma(grid[k + 1])
        z = alpha * x + sigma * noises[k]
        beta = 1 - (alpha / alpha_next) ** 2
        to_x, to_z = alpha_next * beta / sigma**2, alpha / alpha_next * sigma_next**2 / sigma**2
        tilde = beta * sigma_next**2 / sigma**2
        true = normal(to_x * x + to_z * z, tilde.sqrt())
        model = normal(to_x * 0.5 * z.tanh() + to_z * z, (beta**fraction * tilde ** (1 - fraction)).sqrt())
        expected = divergence(true, model).mean((1, 2, 3)) / BITS
        torch.testing.assert_close(found.steps[k], expected, rtol=1e-7, atol=1e-10)
    alpha, sigma = alpha_sigma(grid[0])
    expected = divergence(normal(alpha * x, sigma), normal(0.0, 1.0)).mean((1, 2, 3)) / BITS
    torch.testing.assert_close(found.prior, expected, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(found.total, found.prior + found.steps.sum(0))


@pytest.mark.parametrize("std", [1e-3, 0.01, 0.2, 3.0])
@pytest.mark.parametrize("mean", [-1.4, -1.0, 0.123, 0.99, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decoder_sums_to_one_over_the_256_values(mean: float, std: float, dtype: torch.dtype) -> None:
    values = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).to(dtype)
    log_variance = torch.tensor(2 * math.log(std), dtype=dtype)
    found = decoder_log_likelihood(values, torch.full_like(values, mean), log_variance)
    assert found.isfinite().all()
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    assert found.double().exp().sum().item() == pytest.approx(1.0, abs=tolerance)


def test_decoder_is_the_difference_of_two_distribution_functions() -> None:
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    normal = torch.distributions.Normal(torch.tensor(0.2, dtype=torch.float64), 0.3)
    above, below = normal.cdf(values + 1 / 255), normal.cdf(values - 1 / 255)
    above[-1], below[0] = 1.0, 0.0
    log_variance = torch.tensor(2 * math.log(0.3), dtype=torch.float64)
    found = decoder_log_likelihood(values, torch.full_like(values, 0.2), log_variance)
    torch.testing.assert_close(found.exp(), above - below, rtol=1e-7, atol=1e-12)


def test_decoder_stays_finite_far_out_and_so_does_its_gradient() -> None:
    x = to_float(torch.tensor([0, 1, 128, 254, 255], dtype=torch.uint8).reshape(1, 1, 5, 1))
    for mean in (-5.0, 0.0, 5.0):
        centre = torch.full_like(x, mean).requires_grad_()
        log_variance = torch.full_like(x, 2 * math.log(1e-3)).requires_grad_()
        found = decoder_log_likelihood(x, centre, log_variance)
        found.sum().backward()
        for values in (found, centre.grad, log_variance.grad):
            assert values is not None
            assert values.isfinite().all()


def test_terms_of_a_mixed_batch_are_those_of_each_step_alone_in_float32_too() -> None:
    grid = sampling_grid(linear_beta_knots(1000, 1e-4, 0.02), 1000)
    place = torch.tensor([0, 1, 500, 998, 999])
    generator = torch.Generator().manual_seed(0)
    x = to_float(torch.randint(0, 256, (5, 4, 4, 3), generator=generator))
    x_hat, log_variance = x + 0.05, torch.linspace(-9, -8, 5).reshape(5, 1, 1, 1)
    together = vlb_term(x, x_hat, log_variance, grid[place], grid[place + 1])
    precise = vlb_term(x.double(), x_hat.double(), log_variance.double(), grid[place], grid[place + 1])
    torch.testing.assert_close(together, precise.float(), rtol=2e-4, atol=1e-6)
    for i in range(5):
        part = slice(i, i + 1)
        alone = vlb_term(x[part], x_hat[part], log_variance[part], grid[place[i]], grid[place[i] + 1])
        torch.testing.assert_close(together[part], alone)


def test_prior_is_tiny_but_not_negative_where_nothing_is_left() -> None:
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = prior_term(x, torch.tensor(-20.0, dtype=torch.float64))
    assert torch.all(found >= 0)
    expected = 0.5 * torch.sigmoid(torch.tensor(-20.0)) * x.square().mean((1, 2, 3)) / BITS
    torch.testing.assert_close(found, expected)


def test_bound_asks_for_two_steps_and_a_fraction() -> None:
    x = torch.zeros(1, 3, 2, 2)

    def bound(steps: int, variance: Variance) -> Bound:
        return variational_bound(
            lambda z, logsnr: Prediction(x),
            x,
            sampling_grid(Cosine(), steps),
            variance=variance,
            noise=lambda purpose, step: x,
        )

    with pytest.raises(ValueError, match="two or more"):
        bound(1, "beta")
    with pytest.raises(ValueError, match="needs the fraction"):
        bound(2, "learned")
    assert bound(2, "beta").steps.shape == (2, 1)
