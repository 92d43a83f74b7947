"""Losses: zero for the oracle, gradients of the formula, and the same error in every space up to known factors."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stages.bound import vlb_term
from stages.losses import hybrid_loss, regression_loss
from stages.process import (
    Target,
    alpha_sigma,
    diffuse,
    eps_from_x,
    learned_log_variance,
    per_image,
    variance_floor,
    velocity,
    x_from,
)
from stages.schedules import cosine_beta_knots, linear_beta_knots, sampling_grid

TARGETS: tuple[Target, ...] = ("x", "eps", "v")
PAIRS = list(itertools.product(TARGETS, TARGETS))


def _truth(dtype: torch.dtype = torch.float32, size: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, eps = torch.randn(2, 5, 3, size, size, generator=generator, dtype=dtype)
    logsnr = torch.linspace(-4, 4, 5, dtype=dtype)
    return {"x": x, "eps": eps, "v": velocity(x, eps, logsnr), "z": diffuse(x, eps, logsnr), "logsnr": logsnr}


def _loss(output: Tensor, truth: dict[str, Tensor], **settings: object) -> Tensor:
    return regression_loss(output, truth["x"], truth["eps"], truth["z"], truth["logsnr"], **settings)  # type: ignore[arg-type]


def _wrong(truth: dict[str, Tensor], prediction: Target) -> Tensor:
    target = truth[prediction]
    return target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(2)).to(target)


@pytest.mark.parametrize(("prediction", "space"), PAIRS)
@pytest.mark.parametrize("power", [1, 2])
def test_loss_is_the_error_in_the_space_asked_for(prediction: Target, space: Target, power: int) -> None:
    truth = _truth()
    z, logsnr, output = truth["z"], truth["logsnr"], _wrong(truth, prediction)
    x_hat = x_from(prediction, output, z, logsnr)
    eps_hat = eps_from_x(x_hat, z, logsnr)
    estimate = {"x": x_hat, "eps": eps_hat, "v": velocity(x_hat, eps_hat, logsnr)}[space]
    expected = (estimate - truth[space]).abs().pow(power).mean(dim=(1, 2, 3))
    found = _loss(output, truth, prediction=prediction, space=space, power=power)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("prediction", "space"), PAIRS)
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("multiscale", [None, 2])
def test_loss_of_the_oracle_is_zero(prediction: Target, space: Target, power: int, multiscale: int | None) -> None:
    truth = _truth()
    exact = _loss(truth[prediction], truth, prediction=prediction, space=space, power=power, multiscale=multiscale)
    assert exact.max() < 1e-4
    if prediction == space:
        assert torch.equal(exact, torch.zeros(5))


@pytest.mark.parametrize(
    ("prediction", "space", "bias"),
    [(*pair, None) for pair in PAIRS] + [(prediction, "eps", -1.0) for prediction in TARGETS],
)
@pytest.mark.parametrize("power", [1, 2])
def test_gradient_is_that_of_the_formula(prediction: Target, space: Target, power: int, bias: float | None) -> None:
    # At a fixed z, d space / d prediction: the conversions are linear, so the gradient is this factor times
    # power |error|^(power - 1) sign(error) / dimensions.
    truth = _truth()
    alpha, sigma = alpha_sigma(per_image(truth["logsnr"], truth["x"]))
    one = torch.ones_like(alpha)
    of_x = {"x": one, "eps": -sigma / alpha, "v": -sigma}  # d x_hat / d prediction
    by_x = {"x": one, "eps": -alpha / sigma, "v": -1 / sigma}  # d space / d x_hat
    factor = of_x[prediction] * by_x[space]
    output = _wrong(truth, prediction).requires_grad_()
    _loss(output, truth, prediction=prediction, space=space, power=power, weight_bias=bias).sum().backward()
    error = factor * (output.detach() - truth[prediction])
    expected = factor * power * error.abs() ** (power - 1) * error.sign() / truth["x"][0].numel()
    if bias is not None:
        expected = expected * torch.sigmoid(bias - per_image(truth["logsnr"], expected))
    assert output.grad is not None
    torch.testing.assert_close(output.grad, expected, rtol=1e-3, atol=1e-6)


def test_v_loss_weights_x_errors_by_one_over_sigma() -> None:
    truth = _truth()
    found = _loss(truth["x"] + 0.5, truth, prediction="x", space="v", power=2)
    torch.testing.assert_close(found, 0.25 / alpha_sigma(truth["logsnr"])[1] ** 2)


@pytest.mark.parametrize("bias", [0.0, -2.0])
def test_sigmoid_weight_on_eps_is_a_sigmoid_weight_on_x(bias: float) -> None:
    truth = _truth()
    output = _wrong(truth, "v")
    on_x = _loss(output, truth, prediction="v", space="x", power=2)
    found = _loss(output, truth, prediction="v", space="eps", power=2, weight_bias=bias)
    torch.testing.assert_close(found, on_x * torch.exp(torch.tensor(bias)) * torch.sigmoid(truth["logsnr"] - bias))
    with pytest.raises(ValueError, match="belongs to a loss on eps"):
        _loss(output, truth, prediction="v", space="v", power=2, weight_bias=bias)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("bias", [None, 1.0])
def test_multiscale_loss_equals_a_plain_recomputation(power: int, bias: float | None) -> None:
    truth = _truth(torch.float64, size=16)
    output = truth["eps"] + 0.1 * torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))

    def shrunk(images: Tensor, to: int) -> Tensor:
        block = 16 // to
        small = torch.zeros(5, 3, to, to, dtype=torch.float64)
        for i, j in itertools.product(range(to), range(to)):
            small[..., i, j] = images[..., i * block : (i + 1) * block, j * block : (j + 1) * block].mean((2, 3))
        return small

    expected = torch.zeros(5, dtype=torch.float64)
    for s in (4, 8, 16):
        difference = shrunk(truth["eps"], s) - shrunk(output.float().double(), s)
        expected += (difference.abs() ** power).sum((1, 2, 3)) / 3 / s**2 / s
    if bias is not None:
        expected *= torch.sigmoid(bias - truth["logsnr"])
    settings = {"prediction": "eps", "space": "eps", "power": power, "weight_bias": bias}
    torch.testing.assert_close(_loss(output, truth, **settings, multiscale=4), expected, rtol=1e-12, atol=0)
    at_one_scale = _loss(output, truth, **settings, multiscale=16)
    torch.testing.assert_close(at_one_scale, _loss(output, truth, **settings) / 16)


@pytest.mark.parametrize("smallest", [4, 5, 24])
def test_multiscale_loss_refuses_sizes_not_reached_by_doubling(smallest: int) -> None:
    truth = _truth(size=12)
    with pytest.raises(ValueError, match=f"12 px does not come from {smallest} px"):
        _loss(truth["eps"], truth, prediction="eps", space="eps", power=2, multiscale=smallest)


@dataclass(frozen=True)
class Steps:
    """Some steps of a grid of 20: the last (the decoder's), those before it, and the first."""

    logsnr: Tensor
    after: Tensor
    floor: float


@pytest.fixture
def steps() -> Steps:
    grid = sampling_grid(linear_beta_knots(20, 5e-3, 0.5), 20)
    place = torch.tensor([19, 18, 14, 9, 0])
    return Steps(grid[place], grid[place + 1], variance_floor(grid))


def _hybrid(truth: dict[str, Tensor], steps: Steps) -> Callable[..., Tensor]:
    z = diffuse(truth["x"], truth["eps"], steps.logsnr)

    def loss(output: Tensor, fraction: Tensor, prediction: Target, weight: float) -> Tensor:
        return hybrid_loss(
            output,
            fraction,
            truth["x"],
            truth["eps"],
            z,
            steps.logsnr,
            steps.after,
            prediction=prediction,
            vlb_weight=weight,
            steps=20,
            floor=steps.floor,
        )

    return loss


@pytest.mark.parametrize("prediction", TARGETS)
def test_hybrid_trains_the_mean_by_l_simple_and_the_variance_by_the_bound(prediction: Target, steps: Steps) -> None:
    truth = _truth()
    logsnr, logsnr_next, floor = steps.logsnr, steps.after, steps.floor
    x, eps = truth["x"], truth["eps"]
    z = diffuse(x, eps, logsnr)
    target = {"x": x, "eps": eps, "v": velocity(x, eps, logsnr)}[prediction]
    output = (target + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).requires_grad_()
    fraction = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)).requires_grad_()

    whole = _hybrid(truth, steps)(output, fraction, prediction, 0.01)
    simple = regression_loss(output, x, eps, z, logsnr, prediction=prediction, space="eps", power=2)
    x_hat = x_from(prediction, output.detach(), z, logsnr)
    bound = vlb_term(x, x_hat, learned_log_variance(fraction, logsnr, logsnr_next, floor), logsnr, logsnr_next)
    torch.testing.assert_close(whole, simple + 0.01 * 20 * bound)
    assert whole.isfinite().all()

    of_output, of_fraction = torch.autograd.grad(whole.sum(), [output, fraction])
    assert torch.equal(of_output, torch.autograd.grad(simple.sum(), output)[0])
    torch.testing.assert_close(of_fraction, 0.2 * torch.autograd.grad(bound.sum(), fraction)[0])
    assert torch.all(of_fraction.flatten(1).abs().sum(1) > 0)


def test_hybrid_gradient_of_the_variance_is_that_of_the_formula(steps: Steps) -> None:
    # d KL / d log variance = (1 - (beta-tilde + difference of the means squared) / variance) / 2
    truth = _truth(torch.float64)
    logsnr, logsnr_next, floor = steps.logsnr[1:], steps.after[1:], steps.floor
    x = truth["x"][1:]
    x_hat = x + 0.2
    fraction = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    log_variance = learned_log_variance(fraction, logsnr, logsnr_next, floor)
    vlb_term(x, x_hat, log_variance, logsnr, logsnr_next).sum().backward()

    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(logsnr), alpha_sigma(logsnr_next)
    beta = 1 - alpha**2 / alpha_next**2
    beta_tilde = beta * sigma_next**2 / sigma**2
    shift = alpha_next * beta / sigma**2 * 0.2
    beta, beta_tilde, shift = (per_image(values, x) for values in (beta, beta_tilde, shift))
    variance = beta**fraction * beta_tilde ** (1 - fraction)
    expected = 0.5 * (1 - (beta_tilde + shift**2) / variance) * (beta.log() - beta_tilde.log())
    assert fraction.grad is not None
    expected = expected / x[0].numel() / torch.log(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(fraction.grad, expected.detach(), rtol=1e-9, atol=1e-12)


def test_hybrid_of_the_oracle_with_the_posterior_variance_costs_nothing_but_the_decoder(
    steps: Steps,
) -> None:
    truth = _truth()
    found = _hybrid(truth, steps)(truth["eps"], torch.zeros_like(truth["x"]), "eps", 1.0)
    assert found[1:].max() < 1e-4


def test_hybrid_gradients_are_finite_at_every_step_and_for_any_output() -> None:
    # The decoder's term is reckoned for steps that have none, where its variance may be anything: nothing may leak.
    knots = cosine_beta_knots(1000, 0.008, 0.999)
    steps = torch.tensor([0, 1, 2, 500, 998, 999])
    logsnr = knots.values[steps].float()
    logsnr_next = torch.where(steps > 0, knots.values[steps - 1].float(), torch.inf)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(6, 3, 4, 4, generator=generator) * 2 - 1).clamp(-1, 1)
    eps = torch.randn(6, 3, 4, 4, generator=generator)
    z = diffuse(x, eps, logsnr)
    for size in (1e-3, 1.0, 5.0):
        output = (size * torch.randn(6, 3, 4, 4, generator=generator)).requires_grad_()
        fraction = (size * torch.randn(6, 3, 4, 4, generator=generator) + 0.5).requires_grad_()
        loss = hybrid_loss(
            output,
            fraction,
            x,
            eps,
            z,
            logsnr,
            logsnr_next,
            prediction="eps",
            vlb_weight=0.001,
            steps=1000,
            floor=variance_floor(sampling_grid(knots, 1000)),
        )
        gradients = torch.autograd.grad(loss.sum(), [output, fraction])
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
