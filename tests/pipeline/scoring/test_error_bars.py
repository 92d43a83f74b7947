"""Error bars of FID, held against what repeated draws from a known distribution really do."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.scoring.error_bars import (
    SampleBlocks,
    fid_curve,
    fid_infinity,
    jackknife,
    paired_difference,
    sample_size,
)
from pipeline.scoring.frechet import Reference
from pipeline.scoring.statistics import FeatureStats, stats_of

WIDTH, COUNT, REPEATS = 16, 400, 80


class World(NamedTuple):
    """A reference Gaussian, and another that samples are drawn from, at a known distance from it."""

    reference: Reference
    mean: np.ndarray
    root: np.ndarray
    fid: float

    def draw(self, generator: np.random.Generator, count: int = COUNT) -> np.ndarray:
        return generator.normal(size=(count, WIDTH)) @ self.root + self.mean


def world() -> World:
    generator = np.random.default_rng(0)
    deviations = np.linspace(1.2, 0.2, WIDTH)
    axes, _ = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))
    root = (np.diag(deviations) + 0.1 * (axes + axes.T)).T
    reference = Reference(FeatureStats.from_covariance(100_000, np.zeros(WIDTH), np.diag(deviations**2)))
    mean = np.full(WIDTH, 0.15)
    return World(reference, mean, root, reference.distance(FeatureStats.from_covariance(100_000, mean, root.T @ root)))


class Draws(NamedTuple):
    """Of each repetition: FID, its error, FID-infinity, its error."""

    fid: np.ndarray
    error: np.ndarray
    limit: np.ndarray
    limit_error: np.ndarray


@lru_cache(maxsize=1)
def repeated() -> Draws:
    given = world()
    rows = []
    for repeat in range(REPEATS):
        blocks = SampleBlocks(given.draw(np.random.default_rng([1, repeat])), given.reference)
        curve = blocks.curve()
        assert curve is not None
        rows.append((*blocks.fid.estimate, *fid_infinity(curve)))
    return Draws(*np.array(rows).T)


def rms(values: np.ndarray) -> float:
    return math.sqrt(np.square(values).mean())


def test_the_jackknife_error_is_the_spread_of_repeated_draws() -> None:
    """Within a quarter: 80 repetitions know their own standard deviation to 8 %."""
    draws = repeated()
    assert 0.8 < rms(draws.error) / draws.fid.std(ddof=1) < 1.25
    assert 0.8 < rms(draws.limit_error) / draws.limit.std(ddof=1) < 1.25


def test_fid_is_biased_upwards_and_its_limit_is_not() -> None:
    draws, truth = repeated(), world().fid
    bias, left = draws.fid.mean() - truth, draws.limit.mean() - truth
    uncertain = draws.limit.std(ddof=1) / math.sqrt(REPEATS)
    assert bias > 5 * uncertain
    assert abs(left) < max(0.2 * bias, 2.5 * uncertain)
    covered = np.abs(draws.limit - truth) < 2 * draws.limit_error
    assert covered.mean() > 0.88  # two standard errors hold the truth 95 % of the time


def test_a_bootstrap_is_biased_upwards() -> None:
    """Its resamples score as if they were half as many samples: why it is not used."""
    given, draws = world(), repeated()
    generator = np.random.default_rng(2)
    excess = []
    for repeat in range(10):
        samples = given.draw(np.random.default_rng([1, repeat]))
        resampled = [
            given.reference.distance(stats_of(samples[generator.integers(0, COUNT, COUNT)])) for _ in range(20)
        ]
        excess.append(np.mean(resampled) - draws.fid[repeat])
    bias = draws.fid.mean() - given.fid
    assert 0.7 * bias < np.mean(excess) < 1.3 * bias
    assert np.mean(excess) > 6 * np.std(excess, ddof=1) / math.sqrt(len(excess))


def test_paired_differences_know_what_two_sets_share() -> None:
    """Two samplers of the same noise: their FIDs err together, and the error of the difference says so."""
    given = world()
    differences, paired, apart = [], [], []
    for repeat in range(40):
        a = given.draw(np.random.default_rng([3, repeat]))
        b = a * 1.05 + np.random.default_rng([4, repeat]).normal(size=a.shape) * 0.02
        found = paired_difference(b, a, given.reference)
        differences.append(found.value)
        paired.append(found.error)
        apart.append(math.hypot(*(jackknife(side, given.reference).error for side in (a, b))))
    assert rms(np.array(paired)) < 0.5 * rms(np.array(apart))
    assert 0.7 < rms(np.array(paired)) / np.std(differences, ddof=1) < 1.4


def test_without_a_block_is_the_fid_of_the_others() -> None:
    """Downdated statistics against FIDs from the features that are left, one pass each."""
    given = world()
    samples = given.draw(np.random.default_rng(0), 203)
    found = SampleBlocks(samples, given.reference, blocks=4).fid
    blocks = np.array_split(np.random.default_rng(0).permutation(203), 4)
    for block, without in zip(blocks, found.without, strict=True):
        left = np.delete(samples, block, axis=0)
        assert math.isclose(given.reference.distance(stats_of(left)), without, rel_tol=1e-10)
    assert math.isclose(given.reference.distance(stats_of(samples)), found.value, rel_tol=1e-10)
    spread = np.square(found.without - found.without.mean()).sum()
    assert math.isclose(found.estimate.error, math.sqrt(3 / 4 * spread))


def test_the_curve_is_the_mean_over_parts_of_a_size() -> None:
    given = world()
    samples = given.draw(np.random.default_rng(0), 200)
    curve = fid_curve(samples, given.reference, parts=(4, 1, 2, 10))
    assert curve is not None
    assert curve.sizes == (200, 100, 50)  # 20 samples in 16 dimensions would bend the curve
    halves = np.array_split(np.random.default_rng(0).permutation(200), 2)
    expected = np.mean([given.reference.distance(stats_of(samples[half])) for half in halves])
    assert math.isclose(curve.values[1], float(expected), rel_tol=1e-10)
    assert np.all(np.diff(curve.values) > 0)  # fewer samples, more bias
    intercept = np.polyfit(1 / np.array(curve.sizes), curve.values, 1)[1]
    assert math.isclose(fid_infinity(curve).value, intercept, rel_tol=1e-9)
    assert fid_curve(samples[:60], given.reference) is None


def test_blocks_do_not_follow_the_order_of_classes() -> None:
    """Samples sorted by class: consecutive blocks would hold one class each, and leaving one out would shift all."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 50)
    samples = generator.normal(size=(20, 4))[labels] * 3 + generator.normal(size=(1000, 4))
    reference = Reference(stats_of(samples + 0.3))
    sorted_error, mixed_error = (
        jackknife(side, reference).error for side in (samples, samples[generator.permutation(1000)])
    )
    assert 0.6 < sorted_error / mixed_error < 1.6
    consecutive = [
        reference.distance(stats_of(np.delete(samples, np.s_[start : start + 50], axis=0)))
        for start in range(0, 1000, 50)
    ]
    assert math.sqrt(19 / 20 * np.var(consecutive) * 20) > 3 * mixed_error


def test_equal_draws_give_equal_bits() -> None:
    given = world()
    samples = given.draw(np.random.default_rng(0)).astype(np.float32)
    assert jackknife(samples, given.reference) == jackknife(samples.copy(), given.reference)
    assert paired_difference(samples, samples, given.reference) == (0, 0)


def test_sets_that_do_not_pair_and_sets_too_small_are_refused() -> None:
    given = world()
    samples = given.draw(np.random.default_rng(0), 100)
    with pytest.raises(UserError, match="not 100 and 99 samples"):
        paired_difference(samples, samples[1:], given.reference)
    with pytest.raises(UserError, match="need 40 samples or more, not 39"):
        jackknife(samples[:39], given.reference)


def test_sample_counts_are_judged_against_the_dimension() -> None:
    assert sample_size(160, 160).verdict == "refused"
    assert sample_size(161, 160).verdict == "flagged"
    assert sample_size(3199, 160).verdict == "flagged"
    assert sample_size(3200, 160) == ("enough", None)
    refused, flagged = sample_size(2000, 2048).sentence, sample_size(10_000, 2048, images="real images").sentence
    assert refused is not None
    assert flagged is not None
    assert "2,000 samples" in refused
    assert "10,000 real images" in flagged
    assert "40,960" in flagged
    assert "KID" in refused
    assert "KID" in flagged
