"""The forward process: conversions invert, the posterior is Bayes' rule, the variances are DDPM's."""

from __future__ import annotations

import itertools

import pytest
import torch

from stages.process import (
    Target,
    alpha_sigma,
    diffuse,
    eps_from_x,
    forward_variance,
    learned_log_variance,
    per_image,
    posterior,
    posterior_variance,
    reverse_variance,
    variance_floor,
    velocity,
    x_from,
)
from stages.schedules import linear_beta_knots, sampling_grid

TARGETS: tuple[Target, ...] = ("x", "eps", "v")
PAIRS = [(-9.0, -8.99), (-1.3, 0.4), (0.0, 0.01), (4.0, 11.0)]


def _float64(*values: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(value, dtype=torch.float64) for value in values)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 7, 3, 4, 4, generator=generator, dtype=torch.float64)
    return x, eps, torch.linspace(-8, 8, 7, dtype=torch.float64)


@pytest.mark.parametrize("target", TARGETS)
def test_every_prediction_gives_back_x(target: Target, images: tuple[torch.Tensor, ...]) -> None:
    x, eps, logsnr = images
    z = diffuse(x, eps, logsnr)
    output = {"x": x, "eps": eps, "v": velocity(x, eps, logsnr)}[target]
    torch.testing.assert_close(x_from(target, output, z, logsnr), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(eps_from_x(x, z, logsnr), eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(TARGETS, TARGETS)))
def test_conversions_invert_for_any_output_of_a_net(
    source: Target, target: Target, images: tuple[torch.Tensor, ...]
) -> None:
    output, z, logsnr = images

    def convert(values: torch.Tensor, a: Target, b: Target) -> torch.Tensor:
        x_hat = x_from(a, values, z, logsnr)
        eps_hat = eps_from_x(x_hat, z, logsnr)
        return {"x": x_hat, "eps": eps_hat, "v": velocity(x_hat, eps_hat, logsnr)}[b]

    torch.testing.assert_close(convert(convert(output, source, target), target, source), output, rtol=1e-7, atol=1e-7)


def test_scales_are_variance_preserving() -> None:
    logsnr = torch.linspace(-20, 20, 101, dtype=torch.float64)
    alpha, sigma = alpha_sigma(logsnr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(logsnr))
    torch.testing.assert_close(torch.log(alpha**2 / sigma**2), logsnr)


def test_per_image_follows_dtype_and_shape() -> None:
    like = torch.zeros(3, 1, 2, 2)
    assert per_image(torch.arange(3, dtype=torch.float64), like).shape == (3, 1, 1, 1)
    assert per_image(torch.tensor(0.5, dtype=torch.float64), like).dtype == torch.float32
    elsewhere = per_image(torch.zeros(3, dtype=torch.float64), torch.empty(3, 1, 2, 2, device="meta"))
    assert elsewhere.device.type == "meta"


@pytest.mark.parametrize(("low", "high"), PAIRS)
def test_posterior_is_bayes_rule(low: float, high: float) -> None:
    # q(z_next | z, x) ~ q(z | z_next) q(z_next | x): a product of two Gaussians in z_next, done here by precisions.
    logsnr, logsnr_next, x, z = _float64(low, high, 0.7, -0.2)
    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(logsnr), alpha_sigma(logsnr_next)
    step = alpha / alpha_next  # z = step z_next + noise
    step_variance = sigma**2 - step**2 * sigma_next**2
    precision = 1 / sigma_next**2 + step**2 / step_variance
    mean = (alpha_next * x / sigma_next**2 + step * z / step_variance) / precision
    found_mean, found_variance = posterior(z.reshape(1, 1, 1, 1), x.reshape(1, 1, 1, 1), logsnr, logsnr_next)
    assert found_mean.item() == pytest.approx(mean.item(), rel=1e-9)
    assert found_variance.item() == pytest.approx(1 / precision.item(), rel=1e-9)
    assert posterior_variance(logsnr, logsnr_next).item() == pytest.approx(found_variance.item(), rel=1e-14)
    assert forward_variance(logsnr, logsnr_next).item() == pytest.approx(step_variance.item(), rel=1e-9)


def test_posterior_on_a_line_of_points() -> None:
    # Bayes' rule by brute force: the joint density of (z_next, z) given x, on a grid of z_next.
    logsnr, logsnr_next, x, z = _float64(-0.5, 1.0, -0.4, 0.9)
    alpha, (alpha_next, sigma_next) = alpha_sigma(logsnr)[0], alpha_sigma(logsnr_next)
    points = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    beta = forward_variance(logsnr, logsnr_next)
    log_density = (
        -0.5 * ((points - alpha_next * x) / sigma_next) ** 2 - 0.5 * (z - alpha / alpha_next * points) ** 2 / beta
    )
    weights = torch.softmax(log_density, 0)
    mean = (weights * points).sum()
    found_mean, found_variance = posterior(z.reshape(1, 1, 1, 1), x.reshape(1, 1, 1, 1), logsnr, logsnr_next)
    assert found_mean.item() == pytest.approx(mean.item(), abs=1e-12)
    assert found_variance.item() == pytest.approx((weights * (points - mean) ** 2).sum().item(), rel=1e-10)


def test_mean_and_variances_are_those_that_ddpm_writes_with_betas(images: tuple[torch.Tensor, ...]) -> None:
    # Equation 11 with the root over 1 - alpha-bar_t, where the notes on CDM forget the bar.
    z, eps_hat, _ = images
    knots = linear_beta_knots(100, 1e-3, 0.2)
    betas = torch.linspace(1e-3, 0.2, 100, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    for step in (1, 2, 50, 99):
        logsnr, logsnr_next = knots.values[step], knots.values[step - 1]
        beta_tilde = (1 - alpha_bar[step - 1]) / (1 - alpha_bar[step]) * betas[step]
        torch.testing.assert_close(forward_variance(logsnr, logsnr_next), betas[step], rtol=1e-10, atol=0)
        torch.testing.assert_close(posterior_variance(logsnr, logsnr_next), beta_tilde, rtol=1e-10, atol=0)
        mean, _ = posterior(z, x_from("eps", eps_hat, z, logsnr), logsnr, logsnr_next)
        written = (z - betas[step] / (1 - alpha_bar[step]).sqrt() * eps_hat) / (1 - betas[step]).sqrt()
        torch.testing.assert_close(mean, written, rtol=1e-9, atol=1e-9)
    first = forward_variance(knots.values[0], torch.tensor(torch.inf, dtype=torch.float64))
    assert first.item() == pytest.approx(1e-3, rel=1e-12)


def test_the_last_posterior_is_the_estimate_itself(images: tuple[torch.Tensor, ...]) -> None:
    x, z, _ = images
    mean, variance = posterior(z, x, *_float64(3.0, torch.inf))
    torch.testing.assert_close(mean, x)
    assert torch.all(variance == 0)


@pytest.mark.parametrize(("low", "high"), PAIRS)
def test_learned_variance_runs_between_the_two_fixed_ones(low: float, high: float) -> None:
    logsnr, logsnr_next = _float64(low, high)
    like = torch.zeros(2, 1, 2, 2, dtype=torch.float64)

    def learned(fraction: float) -> torch.Tensor:
        return reverse_variance("learned", logsnr, logsnr_next, torch.full_like(like, fraction), like)

    posterior_, beta = (reverse_variance(kind, logsnr, logsnr_next, None, like) for kind in ("posterior", "beta"))
    assert torch.all(posterior_ < beta)
    torch.testing.assert_close(learned(0.0), posterior_.expand_as(like), rtol=1e-13, atol=0)
    torch.testing.assert_close(learned(1.0), beta.expand_as(like), rtol=1e-13, atol=0)
    torch.testing.assert_close(learned(0.5), (posterior_ * beta).sqrt().expand_as(like), rtol=1e-13, atol=0)
    torch.testing.assert_close(learned(2.0), (beta**2 / posterior_).expand_as(like), rtol=1e-12, atol=0)


def test_variances_of_the_last_step() -> None:
    grid = sampling_grid(linear_beta_knots(10, 0.01, 0.6), 10)
    logsnr, last = grid[-2], grid[-1]
    like, floor = torch.zeros(1, 1, 1, 1, dtype=torch.float64), variance_floor(grid)
    assert floor == pytest.approx(posterior_variance(grid[-3], grid[-2]).item())
    half = torch.full_like(like, 0.5)
    assert reverse_variance("beta", logsnr, last, None, like).item() == pytest.approx(0.01)
    for kind in ("posterior", "learned"):
        for fraction in (half, 2 * half):
            assert reverse_variance(kind, logsnr, last, fraction, like).item() == 0.0
    assert reverse_variance("posterior", logsnr, last, None, like, floor).item() == pytest.approx(floor)
    found = reverse_variance("learned", logsnr, last, half, like, floor).item()
    assert found == pytest.approx((0.01 * floor) ** 0.5)
    with pytest.raises(ValueError, match="two or more"):
        variance_floor(grid[-2:])


def test_variances_take_a_log_snr_per_image() -> None:
    logsnr, logsnr_next = torch.tensor([-1.0, 3.0, 0.0]), torch.tensor([0.5, torch.inf, 0.25])
    fraction = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    for kind in ("posterior", "beta", "learned"):
        together = reverse_variance(kind, logsnr, logsnr_next, fraction, fraction, 1e-3)
        for i in range(3):
            alone = reverse_variance(kind, logsnr[i], logsnr_next[i], fraction[i : i + 1], fraction[i : i + 1], 1e-3)
            torch.testing.assert_close(together[i : i + 1], alone)


def test_learned_variance_needs_a_fraction_and_passes_a_finite_gradient() -> None:
    logsnr, logsnr_next = torch.tensor([-1.0, 3.0]), torch.tensor([0.5, torch.inf])
    with pytest.raises(ValueError, match="needs the fraction"):
        reverse_variance("learned", logsnr, logsnr_next, None, torch.zeros(2, 1, 2, 2))
    fraction = torch.full((2, 1, 2, 2), 0.3, requires_grad=True)
    learned_log_variance(fraction, logsnr, logsnr_next, 1e-3).sum().backward()
    assert fraction.grad is not None
    expected = (
        forward_variance(logsnr, logsnr_next).log()
        - torch.stack([posterior_variance(logsnr, logsnr_next)[0], torch.tensor(1e-3)]).log()
    )
    torch.testing.assert_close(fraction.grad, expected.reshape(2, 1, 1, 1).expand(2, 1, 2, 2))
