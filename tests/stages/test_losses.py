"""Losses: zero for the oracle, and the same error in every space up to the known factors."""

from __future__ import annotations

import pytest
import torch

from stages.losses import regression_loss
from stages.process import Target, alpha_sigma, diffuse, eps_from_x, velocity, x_from

TARGETS: tuple[Target, ...] = ("x", "eps", "v")


@pytest.fixture
def truth() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, eps = torch.randn(2, 5, 3, 4, 4, generator=generator, dtype=torch.float32)
    logsnr = torch.linspace(-4, 4, 5)
    return {"x": x, "eps": eps, "v": velocity(x, eps, logsnr), "z": diffuse(x, eps, logsnr), "logsnr": logsnr}


@pytest.mark.parametrize("prediction", TARGETS)
@pytest.mark.parametrize("space", TARGETS)
@pytest.mark.parametrize("power", [1, 2])
def test_loss_is_the_error_in_the_space_asked_for(
    prediction: Target, space: Target, power: int, truth: dict[str, torch.Tensor]
) -> None:
    x, eps, z, logsnr = truth["x"], truth["eps"], truth["z"], truth["logsnr"]
    output = truth[prediction] + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    x_hat = x_from(prediction, output, z, logsnr)
    eps_hat = eps_from_x(x_hat, z, logsnr)
    estimate = {"x": x_hat, "eps": eps_hat, "v": velocity(x_hat, eps_hat, logsnr)}[space]
    expected = (estimate - truth[space]).abs().pow(power).mean(dim=(1, 2, 3))
    found = regression_loss(output, x, eps, z, logsnr, prediction=prediction, space=space, power=power)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)
    exact = regression_loss(truth[prediction], x, eps, z, logsnr, prediction=prediction, space=space, power=power)
    assert exact.max() < 1e-4


def test_v_loss_weights_x_errors_by_one_over_sigma(truth: dict[str, torch.Tensor]) -> None:
    x, eps, z, logsnr = truth["x"], truth["eps"], truth["z"], truth["logsnr"]
    found = regression_loss(x + 0.5, x, eps, z, logsnr, prediction="x", space="v", power=2)
    torch.testing.assert_close(found, 0.25 / alpha_sigma(logsnr)[1] ** 2)
