"""Frechet distance: closed forms, flat directions, and equality with torch-fidelity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from pipeline.scoring.frechet import Reference, frechet_distance
from pipeline.scoring.statistics import FeatureStats, stats_of


def features_of(count: int, width: int, seed: int) -> np.ndarray:
    """Correlated features with variances over four decades, as those of a network are."""
    generator = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(generator.normal(size=(width, width)))
    return generator.normal(size=(count, width)) * np.logspace(0, -2, width) @ axes.T + generator.normal(size=width)


def exact(mean: np.ndarray, covariance: np.ndarray) -> FeatureStats:
    """Statistics of a population of this mean and covariance."""
    return FeatureStats.from_covariance(10_001, mean, covariance)


def library(fake: np.ndarray, real: np.ndarray) -> float:
    sides = [fid_features_to_statistics(torch.from_numpy(side)) for side in (fake, real)]
    return float(fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"])


@pytest.mark.parametrize("count", [2, 5, 60, 2000])
def test_of_a_set_with_itself_it_is_zero(count: int) -> None:
    """Also with fewer features than dimensions, where rounding of 1e-16 must not become 1e-8 under the root."""
    stats = stats_of(features_of(count, 60, 0))
    assert frechet_distance(stats, stats) <= 1e-8 * np.trace(stats.covariance)


def test_features_that_depend_on_each_other_are_as_good_as_fewer() -> None:
    """Ten features laid into a hundred dimensions: ninety directions without variance, but for rounding."""
    fake, real = features_of(300, 10, 0), features_of(300, 10, 1)
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 100)))
    expected = frechet_distance(stats_of(fake), stats_of(real))
    laid = [stats_of(side @ axes[:10]) for side in (fake, real)]
    assert math.isclose(frechet_distance(*laid), expected, rel_tol=1e-10)


def test_few_samples_have_few_directions() -> None:
    """Either may be the one whose root is taken; the other's missing directions must not come back as rounding."""
    few, many = stats_of(features_of(12, 100, 0)), stats_of(features_of(1000, 100, 1))
    assert math.isclose(frechet_distance(few, many), frechet_distance(many, few), rel_tol=1e-11)


def test_of_commuting_gaussians_it_is_the_closed_form() -> None:
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    a, b = np.array([4.0, 1.0, 9.0, 0.25, 2.0, 5.0]), np.array([1.0, 1.0, 4.0, 0.5, 0.1, 3.0])
    apart = np.arange(6.0)
    expected = (apart**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = frechet_distance(exact(np.zeros(6), (axes * a) @ axes.T), exact(apart, (axes * b) @ axes.T))
    assert math.isclose(found, expected, rel_tol=1e-12)


def test_of_two_by_two_gaussians_that_do_not_commute() -> None:
    """tr (A B)^1/2 = sqrt(tr A B + 2 sqrt(det A B)) for 2 x 2 matrices."""
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    product = a @ b
    root_trace = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    expected = np.trace(a) + np.trace(b) - 2 * root_trace
    for pair in ((a, b), (b, a)):
        found = frechet_distance(*(exact(np.zeros(2), side) for side in pair))
        assert math.isclose(found, expected, rel_tol=1e-12)


def test_of_wide_gaussians_that_do_not_commute_it_is_that_of_the_matrix_root() -> None:
    generator = np.random.default_rng(0)
    roots = [generator.normal(size=(30, 30)) * np.logspace(0, -1.5, 30) for _ in range(2)]
    a, b = (root @ root.T for root in roots)
    apart = generator.normal(size=30)
    expected = apart @ apart + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert math.isclose(frechet_distance(exact(apart, a), exact(np.zeros(30), b)), expected, rel_tol=1e-9)


def test_of_gaussians_that_are_flat_in_some_directions() -> None:
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    a, b = np.array([4.0, 0.0, 1.0, 0.0]), np.array([1.0, 2.0, 0.0, 0.0])
    for pair in ((a, b), (b, a)):
        found = frechet_distance(*(exact(np.zeros(4), (axes * side) @ axes.T) for side in pair))
        assert math.isclose(found, 1 + 2 + 1, rel_tol=1e-7)


def test_a_reference_scores_turned_features_alike() -> None:
    real, fake = features_of(500, 40, 0), features_of(300, 40, 1)
    reference = Reference(stats_of(real))
    expected = frechet_distance(stats_of(fake), stats_of(real))
    assert reference.distance(stats_of(fake)) == expected
    assert math.isclose(reference.turned_distance(stats_of(reference.turn(fake))), expected, rel_tol=1e-11)
    assert math.isclose(frechet_distance(stats_of(real), stats_of(fake)), expected, rel_tol=1e-11)


@pytest.mark.parametrize(("count", "width"), [(2000, 16), (3000, 160), (120, 160)])
def test_equals_torch_fidelity(count: int, width: int) -> None:
    fake, real = features_of(count, width, 1), features_of(count + 77, width, 0) * 1.1
    found, expected = frechet_distance(stats_of(fake), stats_of(real)), library(fake, real)
    traces = np.var(fake, axis=0).sum() + np.var(real, axis=0).sum()
    # With fewer features than dimensions the library's roots are of rounding: 1e-8 of an eigenvalue for each.
    noise = 1e-8 if count > width else 1e-6
    assert abs(found - expected) <= 1e-6 * expected + noise * traces


def test_the_library_takes_the_mean_of_float32_features_in_float32() -> None:
    """Why features are compared in float64: ours is the same for both, the library's moves with the type."""
    fake, real = ((features_of(4000, 16, seed) + 100).astype(np.float32) for seed in (0, 0))
    fake += np.float32(0.01)
    found = frechet_distance(stats_of(fake), stats_of(real))
    doubles = library(fake.astype(np.float64), real.astype(np.float64))
    assert math.isclose(found, doubles, rel_tol=1e-6)
    assert not math.isclose(library(fake, real), doubles, rel_tol=1e-6)
