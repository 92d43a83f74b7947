"""The forward process: conversions invert, the posterior is Bayes' rule."""

from __future__ import annotations

import pytest
import torch

from stages.process import Target, alpha_sigma, diffuse, eps_from_x, posterior, velocity, x_from


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 7, 3, 4, 4, generator=generator, dtype=torch.float64)
    return x, eps, torch.linspace(-8, 8, 7, dtype=torch.float64)


@pytest.mark.parametrize("target", ["x", "eps", "v"])
def test_every_prediction_gives_back_x(target: Target, images: tuple[torch.Tensor, ...]) -> None:
    x, eps, logsnr = images
    z = diffuse(x, eps, logsnr)
    output = {"x": x, "eps": eps, "v": velocity(x, eps, logsnr)}[target]
    torch.testing.assert_close(x_from(target, output, z, logsnr), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(eps_from_x(x, z, logsnr), eps, rtol=1e-9, atol=1e-9)


def test_scales_are_variance_preserving() -> None:
    logsnr = torch.linspace(-20, 20, 101, dtype=torch.float64)
    alpha, sigma = alpha_sigma(logsnr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(logsnr))
    torch.testing.assert_close(torch.log(alpha**2 / sigma**2), logsnr)


def test_posterior_is_bayes_rule() -> None:
    # q(z_next | z, x) ~ q(z | z_next) q(z_next | x): a product of two Gaussians in z_next, done here by precisions.
    logsnr, logsnr_next = torch.tensor(-1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(logsnr), alpha_sigma(logsnr_next)
    x, z = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-0.2, dtype=torch.float64)
    step = alpha / alpha_next  # z = step z_next + noise
    step_variance = sigma**2 - step**2 * sigma_next**2
    precision = 1 / sigma_next**2 + step**2 / step_variance
    mean = (alpha_next * x / sigma_next**2 + step * z / step_variance) / precision
    found_mean, found_variance = posterior(z.reshape(1, 1, 1, 1), x.reshape(1, 1, 1, 1), logsnr, logsnr_next)
    assert found_mean.item() == pytest.approx(mean.item(), rel=1e-12)
    assert found_variance.item() == pytest.approx(1 / precision.item(), rel=1e-12)


def test_the_last_posterior_is_the_estimate_itself(images: tuple[torch.Tensor, ...]) -> None:
    x, z, _ = images
    mean, variance = posterior(
        z, x, torch.tensor(3.0, dtype=torch.float64), torch.tensor(torch.inf, dtype=torch.float64)
    )
    torch.testing.assert_close(mean, x)
    assert torch.all(variance == 0)
