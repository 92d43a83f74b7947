"""The same figures from an independent implementation: the schedulers of diffusers.

diffusers keeps its betas and alpha-bars in float32, which near the clean end cancels to 4 digits. Its betas and
add_noise are compared as they are; for the steps it is given the same betas in float64, so that what is compared
are the formulas.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.process import (
    Target,
    Variance,
    diffuse,
    forward_variance,
    learned_log_variance,
    posterior,
    posterior_variance,
    reverse_variance,
    x_from,
)
from stages.samplers import Point, ddim, sample
from stages.schedules import Knots, cosine_beta_knots, linear_beta_knots, sampling_grid
from stages.stage import Prediction

diffusers = pytest.importorskip("diffusers")

STEPS = 1000
SCHEDULES: dict[str, Knots] = {
    "linear": linear_beta_knots(STEPS, 1e-4, 0.02),
    "squaredcos_cap_v2": cosine_beta_knots(STEPS, 0.008, 0.999),
}
PREDICTIONS: dict[str, Target] = {"epsilon": "eps", "sample": "x", "v_prediction": "v"}
PLACES = [1, 2, 17, 500, 998, 999]


def _scheduler(kind: str, schedule: str, **settings: Any) -> Any:
    return getattr(diffusers, kind)(
        num_train_timesteps=STEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=schedule,
        clip_sample=False,
        **settings,
    )


def _in_float64(scheduler: Any, schedule: str) -> Any:
    """``scheduler`` with betas and alpha-bars that were float64 from the beginning."""
    betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    if schedule == "squaredcos_cap_v2":
        bar = [math.cos((i / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(STEPS + 1)]
        betas = torch.tensor([min(1 - b / a, 0.999) for a, b in pairwise(bar)], dtype=torch.float64)
    torch.testing.assert_close(betas.float(), scheduler.betas, rtol=1e-6, atol=2e-8)
    scheduler.alphas_cumprod = torch.cumprod(1.0 - betas, 0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def _images(count: int, channels: int = 3) -> Tensor:
    shape = (count, 2, channels, 4, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def _not_asked(z: Tensor, logsnr: Tensor) -> Prediction:
    raise AssertionError("DDIM calls the denoiser once a step")


def _next(knots: Knots, place: int, stride: int = 1) -> Tensor:
    after = place - stride
    return knots.values[after] if after >= 0 else torch.tensor(torch.inf, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_betas_and_alpha_bars(schedule: str) -> None:
    scheduler, knots = _scheduler("DDPMScheduler", schedule), SCHEDULES[schedule]
    before = torch.cat([torch.tensor([torch.inf], dtype=torch.float64), knots.values[:-1]])
    betas = forward_variance(knots.values, before)
    torch.testing.assert_close(betas, scheduler.betas.double(), rtol=2e-6, atol=1e-9)
    torch.testing.assert_close(torch.sigmoid(knots.values), scheduler.alphas_cumprod.double(), rtol=5e-5, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_add_noise_and_velocity(schedule: str) -> None:
    scheduler, knots = _scheduler("DDPMScheduler", schedule), SCHEDULES[schedule]
    x, eps = torch.randn(2, len(PLACES), 3, 4, 4, generator=torch.Generator().manual_seed(0))
    places = torch.tensor(PLACES)
    found = diffuse(x, eps, knots.values[places])
    torch.testing.assert_close(found, scheduler.add_noise(x, eps, places), rtol=1e-4, atol=1e-4)
    v = scheduler.get_velocity(x, eps, places)
    torch.testing.assert_close(x_from("v", v, found, knots.values[places]), x, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("kind", "variance"), [("fixed_small", "posterior"), ("fixed_large", "beta")])
def test_ddpm_step(schedule: str, prediction: str, kind: str, variance: Variance) -> None:
    scheduler = _scheduler("DDPMScheduler", schedule, variance_type=kind, prediction_type=prediction)
    scheduler, knots = _in_float64(scheduler, schedule), SCHEDULES[schedule]
    z, output = _images(2)
    for place in [0, *PLACES]:
        logsnr, after = knots.values[place], _next(knots, place)
        x_hat = x_from(PREDICTIONS[prediction], output, z, logsnr)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
        found, _ = posterior(z, x_hat, logsnr, after)
        if place:  # the last step draws nothing
            found = found + reverse_variance(variance, logsnr, after, None, z).sqrt() * noise
        theirs = scheduler.step(output, place, z, generator=torch.Generator().manual_seed(place))
        torch.testing.assert_close(x_hat, theirs.pred_original_sample, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found, theirs.prev_sample, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm_step_with_a_learned_range(schedule: str) -> None:
    scheduler = _in_float64(_scheduler("DDPMScheduler", schedule, variance_type="learned_range"), schedule)
    knots = SCHEDULES[schedule]
    z, output, variance_output = _images(3)
    for place in PLACES:
        logsnr, after = knots.values[place], _next(knots, place)
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
        fraction = (variance_output + 1) / 2  # what a stage makes of the second half of the channels
        mean, _ = posterior(z, x_from("eps", output, z, logsnr), logsnr, after)
        found = mean + reverse_variance("learned", logsnr, after, fraction, z).sqrt() * noise
        both = torch.cat([output, variance_output], dim=1)
        theirs = scheduler.step(both, place, z, generator=torch.Generator().manual_seed(place)).prev_sample
        torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-8)


def test_the_first_posterior_variances_agree_on_what_is_zero() -> None:
    knots = SCHEDULES["linear"]
    scheduler = _in_float64(_scheduler("DDPMScheduler", "linear"), "linear")
    assert scheduler._get_variance(0).item() == pytest.approx(1e-20)  # theirs is clamped there, ours is 0
    assert posterior_variance(knots.values[0], _next(knots, 0)) == 0.0
    half = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    floor = scheduler._get_variance(1).item()
    found = learned_log_variance(half, knots.values[0], _next(knots, 0), floor)
    assert found.item() == pytest.approx(0.5 * (math.log(1e-4) + math.log(floor)), rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step(schedule: str, prediction: str, eta: float) -> None:
    scheduler = _in_float64(_scheduler("DDIMScheduler", schedule, prediction_type=prediction), schedule)
    scheduler.set_timesteps(50)
    knots, stride = SCHEDULES[schedule], STEPS // 50
    z, output, noise = _images(3)
    for place in scheduler.timesteps.tolist():
        logsnr, after = knots.values[place], _next(knots, place, stride)
        estimate = Prediction(x_from(PREDICTIONS[prediction], output, z, logsnr))
        found = ddim(eta)(Point(z, logsnr, estimate), None, after, _not_asked, lambda: noise)
        theirs = scheduler.step(output, place, z, eta=eta, variance_noise=noise if eta else None).prev_sample
        torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-8)


def _net(z: Tensor) -> Tensor:
    """An eps-predicting net that is nothing in particular."""
    return torch.tanh(z.roll(1, -1) + 0.3 * z)


def test_whole_ddim_chain() -> None:
    # "trailing" spacing has its last step at 19 and goes from there to the clean image, as sampling_grid does not.
    scheduler = _in_float64(_scheduler("DDIMScheduler", "linear", timestep_spacing="trailing"), "linear")
    scheduler.set_timesteps(50)
    knots, start = SCHEDULES["linear"], _images(1)[0]
    theirs = start
    for place in scheduler.timesteps.tolist():
        theirs = scheduler.step(_net(theirs), place, theirs).prev_sample
    grid = torch.cat([knots.values[scheduler.timesteps], torch.tensor([torch.inf], dtype=torch.float64)])
    found, _ = sample(
        lambda z, logsnr: Prediction(x_from("eps", _net(z), z, logsnr)),
        start,
        grid,
        rule=ddim(0.0),
        noise=lambda purpose, step: torch.zeros_like(start),
    )
    torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-8)


def test_evenly_spaced_steps_are_those_of_linspace_spacing() -> None:
    for steps in (3, 10, 250, 1000):
        scheduler = _scheduler("DDIMScheduler", "linear", timestep_spacing="linspace")
        scheduler.set_timesteps(steps)
        expected = SCHEDULES["linear"].values[scheduler.timesteps]
        assert torch.equal(sampling_grid(SCHEDULES["linear"], steps)[:-1], expected)
