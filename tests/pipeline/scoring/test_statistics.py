"""Statistics of features: exact merging and taking away, bits that do not depend on the workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.scoring.statistics import FeatureStats, block_stats, merge_stats, stats_of


def gaussian(count: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, width)) @ generator.normal(size=(width, width)) + 3.0


def same_bits(a: FeatureStats, b: FeatureStats) -> bool:
    return (a.count, a.mean.tobytes(), a.scatter.tobytes()) == (b.count, b.mean.tobytes(), b.scatter.tobytes())


def test_merged_statistics_are_those_of_all_features_at_once() -> None:
    features = gaussian(257, 12, 1) + 1e4  # a large mean, which sums of squares would not survive
    blocks = list(block_stats(features, 64))
    assert [stats.count for stats in blocks] == [64, 64, 64, 64, 1]
    for merged in (merge_stats(blocks), merge_stats(blocks[::-1]), FeatureStats.from_features(features)):
        assert merged.count == 257
        np.testing.assert_allclose(merged.mean, features.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(merged.covariance, np.cov(features, rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_any_number_of_workers_gives_the_same_bits(workers: int) -> None:
    features = gaussian(5000, 12, 2).astype(np.float32)
    starts = range(0, 5000, 1024)
    shares = np.array_split(np.array(starts), workers)  # of whole canonical blocks, in index order
    handed_on = [
        stats for share in shares if len(share) for stats in block_stats(features[share[0] : share[-1] + 1024])
    ]
    assert same_bits(merge_stats(handed_on), stats_of(features))


def test_taking_a_part_away_undoes_merging() -> None:
    features = gaussian(400, 8, 3) + 1e3
    blocks = list(block_stats(features, 50))
    whole = merge_stats(blocks)
    for index in (0, 3, 7):
        left = whole.without(blocks[index])
        expected = FeatureStats.from_features(np.delete(features, np.s_[50 * index : 50 * index + 50], axis=0))
        assert left.count == 350
        np.testing.assert_allclose(left.mean, expected.mean, rtol=1e-14)
        np.testing.assert_allclose(left.scatter, expected.scatter, atol=1e-12 * np.abs(whole.scatter).max())
    with pytest.raises(AssertionError, match="400 of 400"):
        whole.without(whole)


def test_statistics_survive_a_file(tmp_path: Path) -> None:
    stats = stats_of(gaussian(50, 4, 0))
    np.savez(tmp_path / "stats.npz", **stats.arrays())
    with np.load(tmp_path / "stats.npz") as stored:
        assert stored["scatter"].shape == (10,)  # one triangle of a symmetric matrix
        assert same_bits(FeatureStats.from_arrays(stored), stats)


def test_published_moments_become_statistics() -> None:
    features = gaussian(40, 3, 0)
    stats = FeatureStats.from_covariance(40, features.mean(axis=0), np.cov(features, rowvar=False))
    np.testing.assert_allclose(stats.scatter, stats_of(features).scatter, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_refused(bad: float) -> None:
    features = gaussian(40, 3, 0)
    features[17, 1] = bad
    with pytest.raises(UserError, match="features of 40 images are not finite"):
        stats_of(features.astype(np.float32))
