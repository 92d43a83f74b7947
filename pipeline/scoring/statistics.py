"""Sufficient statistics of features: count, mean and scatter in float64, which merge. No score, no extractor.

The statistics of parts merge exactly (Chan, Golub and LeVeque 1979), so features are extracted in parts on many
workers. Sums in floating point depend on their order, though: bits repeat because features are always summed in the
same *canonical blocks* of consecutive indices and the blocks are merged in index order, whoever computed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

Doubles = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating[Any]]

BLOCK = 1024  # features in a canonical block


class Spread(NamedTuple):
    """Mean and standard deviation (over their number, not one less) of a score over subsets of the samples."""

    mean: float
    std: float


@dataclass(frozen=True)
class FeatureStats:
    """Mean and scatter of features; `scatter` is the sum of (f - mean)(f - mean)^T over all of them, symmetric."""

    count: int
    mean: Doubles  # (D,)
    scatter: Doubles  # (D, D)

    @classmethod
    def from_features(cls, features: npt.ArrayLike) -> FeatureStats:
        """Statistics of features (N, D) at once, N >= 1. Raises UserError where one is not finite."""
        values = as_features(features).astype(np.float64, copy=False)
        mean = values.mean(axis=0)
        centred = values - mean
        return cls(len(values), mean, centred.T @ centred)

    @classmethod
    def from_covariance(cls, count: int, mean: npt.ArrayLike, covariance: npt.ArrayLike) -> FeatureStats:
        """Statistics of ``count`` features of which the mean (D,) and unbiased covariance (D, D) were published."""
        return cls(count, np.array(mean, np.float64), np.array(covariance, np.float64) * (count - 1))

    @property
    def dimension(self) -> int:
        """D, the length of a feature."""
        return len(self.mean)

    @property
    def covariance(self) -> Doubles:
        """Unbiased covariance (D, D); needs two features."""
        assert self.count >= 2, "a covariance needs at least two images"
        return self.scatter / (self.count - 1)

    def merged(self, other: FeatureStats) -> FeatureStats:
        """Statistics of both sets together, as if computed at once (to rounding)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(apart, apart) * (self.count * other.count / count)
        return FeatureStats(count, mean, scatter)

    def without(self, part: FeatureStats) -> FeatureStats:
        """Statistics of what is left when ``part``, some but not all of these features, is taken away (to rounding).

        It undoes ``merged``: leaving out one block after the other costs one pass over the features, not one each.
        """
        assert 0 < part.count < self.count, f"{part.count} of {self.count} features cannot be taken away"
        count = self.count - part.count
        mean = self.mean - (part.mean - self.mean) * (part.count / count)
        apart = part.mean - mean
        scatter = self.scatter - part.scatter - np.outer(apart, apart) * (count * part.count / self.count)
        return FeatureStats(count, mean, scatter)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Named arrays for `numpy.savez`, which `from_arrays` reads; of the symmetric scatter one triangle."""
        triangle = self.scatter[np.triu_indices(self.dimension)]
        return {"count": np.array(self.count, dtype=np.int64), "mean": self.mean, "scatter": triangle}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> FeatureStats:
        """The statistics that ``arrays()`` wrote, bit for bit."""
        mean = np.asarray(arrays["mean"])
        scatter = np.empty((len(mean), len(mean)))
        triangle = np.triu_indices(len(mean))
        scatter[triangle] = scatter.T[triangle] = arrays["scatter"]
        return cls(int(arrays["count"]), mean, scatter)


def merge_stats(parts: Iterable[FeatureStats]) -> FeatureStats:
    """All parts together, at least one, merged from left to right: give them in index order and the bits repeat."""
    return reduce(FeatureStats.merged, parts)


def block_stats(features: npt.ArrayLike, block: int = BLOCK) -> Iterator[FeatureStats]:
    """Statistics of consecutive blocks of features (N, D); the last block may be shorter.

    A worker whose share starts at a multiple of ``block`` hands these on unmerged: merged in index order with those
    of the others they are `stats_of` everything, bit for bit. (On CPUs with one build and thread count of BLAS.)
    """
    values = as_features(features)
    return (FeatureStats.from_features(values[start : start + block]) for start in range(0, len(values), block))


def stats_of(features: npt.ArrayLike, block: int = BLOCK) -> FeatureStats:
    """Statistics of features (N, D), N >= 1: the canonical blocks, merged in index order."""
    return merge_stats(block_stats(features, block))


def as_features(values: npt.ArrayLike) -> Features:
    """``values`` as a matrix (N, D) of floats, N >= 1. Raises UserError where one is not finite."""
    features = np.asarray(values)
    assert features.ndim == 2, f"features are (N, D), not {features.shape}"
    assert len(features) > 0, "there is no feature"
    if not np.issubdtype(features.dtype, np.floating):
        features = features.astype(np.float64)
    if not np.isfinite(features.sum(dtype=np.float64)):
        raise UserError(
            f"some of the features of {len(features)} images are not finite numbers, which no score can be made of; "
            "look for NaN or infinity in the images or in the extractor's weights"
        )
    return features
