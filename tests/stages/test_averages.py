"""Power-function averages against explicit weights over steps, and rebuilt ones against ones that were truly kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from stages.averages import (
    Doubles,
    Profile,
    average_decay,
    gamma_of,
    inner_products,
    rebuilding_error,
    rebuilding_weights,
    stored_steps,
    width_of,
)

WIDTHS = (0.05, 0.1)
STEPS = 1000


def weights_over_steps(profile: Profile, steps: int) -> Doubles:
    """How much each of ``steps`` steps counts, found by running the recursion on unit vectors."""
    gamma, counts = gamma_of(profile.width), np.zeros(steps)
    for step in range(1, profile.step + 1):
        decay = average_decay(gamma, step)
        counts *= decay
        counts[step - 1] += 1.0 - decay
    return counts


def kept(trajectory: Doubles, width: float, steps: list[int]) -> list[Doubles]:
    """The average of a ``trajectory`` (T, D) of weights as training keeps it, at ``steps``."""
    gamma, average, seen = gamma_of(width), np.full_like(trajectory[0], np.nan), []
    average[:] = 1e9  # whatever stood there before the first step must not matter
    for step, weights in enumerate(trajectory, start=1):
        average = average + (1.0 - average_decay(gamma, step)) * (weights - average)
        if step in steps:
            seen.append(average)
    return seen


def regression(steps: int) -> Doubles:
    """Weights (T, 20) of a linear regression learned by stochastic gradient descent, noisy to the end."""
    rng = np.random.default_rng(0)
    truth, weights, trajectory = rng.normal(size=20), rng.normal(size=20) * 3, []
    for _ in range(steps):
        inputs = rng.normal(size=(4, 20))
        errors = inputs @ (weights - truth) + rng.normal(size=4)
        weights = weights - 0.02 * inputs.T @ errors / 4
        trajectory.append(weights)
    return np.stack(trajectory)


def random_walk(steps: int) -> Doubles:
    return np.cumsum(np.random.default_rng(1).normal(size=(steps, 20)), axis=0)


def pairs(every: int) -> list[Profile]:
    return [Profile(width, step) for width in WIDTHS for step in stored_steps(every, STEPS)]


@pytest.mark.parametrize("width", [0.002, 0.01, 0.05, 0.1, 0.25, 12**-0.5, 0.289])
def test_width_and_exponent_are_inverse(width: float) -> None:
    assert width_of(gamma_of(width)) == pytest.approx(width, rel=1e-9)


def test_known_exponents_and_impossible_widths() -> None:
    assert gamma_of(12**-0.5) == pytest.approx(0.0, abs=1e-9)  # the plain mean
    # EDM2 prints gamma = 16.97 and 6.94 for its two stored averages.
    assert [gamma_of(width) for width in WIDTHS] == pytest.approx([16.97, 6.94], abs=5e-3)
    for width in (0.0, -0.1, 0.3):
        with pytest.raises(ValueError, match=r"lies between 0 and 0\.3"):
            gamma_of(width)


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_an_average_counts_as_its_profile_says(width: float) -> None:
    counts = weights_over_steps(Profile(width, STEPS), STEPS)
    assert counts.sum() == pytest.approx(1.0, abs=1e-12)
    moments = np.arange(1, STEPS + 1) - 0.5  # a step stands for the interval that ends with it
    mean = (counts * moments).sum()
    deviation = np.sqrt((counts * (moments - mean) ** 2).sum())
    assert deviation / STEPS == pytest.approx(width, rel=1e-3)  # within 1 / STEPS: the interval is not a point
    edges = (np.arange(STEPS + 1) / STEPS) ** (gamma_of(width) + 1)
    np.testing.assert_allclose(counts, np.diff(edges), atol=1e-14)


def test_inner_products_are_those_of_the_weights_over_steps() -> None:
    profiles = [Profile(0.05, STEPS), Profile(0.1, STEPS), Profile(0.1, 600), Profile(0.25, 950)]
    counts = np.stack([weights_over_steps(profile, STEPS) for profile in profiles])
    np.testing.assert_allclose(inner_products(profiles, profiles), counts @ counts.T, rtol=3e-3)


@pytest.mark.parametrize("width", [0.02, 0.04, 0.07, 0.15, 0.25])
def test_rebuilding_is_the_least_squares_solution(width: float) -> None:
    """Against a solution over explicit steps, with the constraint eliminated instead of bordered."""
    stored, wanted = pairs(every=100), Profile(width, STEPS)
    weights = rebuilding_weights(stored, wanted)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    basis = np.stack([weights_over_steps(profile, STEPS) for profile in stored], axis=1)  # (STEPS, N)
    target = weights_over_steps(wanted, STEPS)
    free = np.linalg.lstsq(basis[:, 1:] - basis[:, :1], target - basis[:, 0], rcond=None)[0]
    best = np.linalg.norm(basis @ np.append(1.0 - free.sum(), free) - target) / np.linalg.norm(target)
    found = np.linalg.norm(basis @ weights - target) / np.linalg.norm(target)
    assert best <= found < 1.01 * best
    assert rebuilding_error(stored, wanted) == pytest.approx(found, rel=0.02)


def test_rebuilding_a_stored_one_is_exact() -> None:
    stored = pairs(every=100)
    for wanted in (Profile(0.05, STEPS), Profile(0.1, 300)):
        assert rebuilding_weights(stored, wanted).tolist() == [float(profile == wanted) for profile in stored]
        assert rebuilding_error(stored, wanted) == 0.0


@pytest.mark.parametrize("every", [100, 20])
@pytest.mark.parametrize("trajectory", [regression, random_walk])
def test_a_rebuilt_average_is_the_one_that_was_kept(trajectory: Callable[[int], Doubles], every: int) -> None:
    """Errors relative to how far the averages of lengths 0.02 and 0.25 lie apart: with ten pairs and with fifty."""
    path = trajectory(STEPS)
    stored = pairs(every)
    snapshots = np.stack([average for width in WIDTHS for average in kept(path, width, stored_steps(every, STEPS))])
    spread = np.linalg.norm(kept(path, 0.02, [STEPS])[0] - kept(path, 0.25, [STEPS])[0])
    for width in (0.04, 0.07, 0.12, 0.15):
        rebuilt = rebuilding_weights(stored, Profile(width, STEPS)) @ snapshots
        error = np.linalg.norm(rebuilt - kept(path, width, [STEPS])[0]) / spread
        assert error < {100: 0.01, 20: 1e-4}[every]


def test_more_stored_pairs_rebuild_better_and_far_widths_worse() -> None:
    errors = [rebuilding_error(pairs(every), Profile(0.03, STEPS)) for every in (200, 100, 50, 25)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01
    assert rebuilding_error(pairs(100), Profile(0.005, STEPS)) > 0.5  # narrower than the distance between pairs


def test_stored_steps() -> None:
    assert stored_steps(4, 12) == [4, 8, 12]
    assert stored_steps(5, 12) == [5, 10, 12]
    assert stored_steps(100, 12) == [12]
