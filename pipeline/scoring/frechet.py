"""The Frechet distance of two Gaussians fitted to features: FID, sFID, FD-DINOv2, by the extractor. No error bars.

Heusel et al. 2017: |m_a - m_b|^2 + tr(A + B - 2 (A B)^1/2). The root is taken of the symmetric B^1/2 A B^1/2, which
has the same eigenvalues, all real and non-negative. In the axes in which B is diagonal that product is A's entries
times the standard deviations of B: a reference turned into its own axes once costs one `eigvalsh` per distance.

FID is biased upwards at any sample count, the more the fewer: `pipeline.scoring.error_bars` says by how much.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.scoring.statistics import Doubles, FeatureStats, as_features


class Reference:
    """The Gaussian that others are compared with, and the root of its covariance, computed once."""

    def __init__(self, stats: FeatureStats) -> None:
        """From two features or more. A covariance of too few features, or with constant ones, is welcome."""
        variances, axes = np.linalg.eigh(stats.covariance)  # rising
        self.count = stats.count
        self.mean = stats.mean
        self.axes: Doubles = axes  # (D, D), axes in columns
        self.trace = float(np.trace(stats.covariance))
        # Rounding makes directions without variance look as if they had some, and a root magnifies it: 1e-16 of a
        # variance is 1e-8 of a standard deviation. What cannot be told from zero is zero.
        unseen = len(variances) * np.finfo(np.float64).eps * variances[-1]
        rank = min(int((variances > unseen).sum()), stats.count - 1)
        self._flat = len(variances) - rank
        self._deviations: Doubles = np.sqrt(variances[self._flat :])

    def distance(self, stats: FeatureStats) -> float:
        """Frechet distance, >= 0, to the Gaussian of ``stats``, of two features or more."""
        apart = stats.mean - self.mean
        return self.turned_distance(FeatureStats(stats.count, apart @ self.axes, self._turned(stats.scatter)))

    def turn(self, features: npt.ArrayLike) -> Doubles:
        """Features (N, D) seen from the reference's mean and along its axes: (N, D) float64."""
        values = as_features(features).astype(np.float64, copy=False)
        turned: Doubles = (values - self.mean) @ self.axes
        return turned

    def turned_distance(self, stats: FeatureStats) -> float:
        """``distance`` from the statistics of *turned* features, for one `eigvalsh` and no matrix product."""
        assert stats.count >= 2, "a covariance needs at least two images"
        inner = stats.scatter[self._flat :, self._flat :] / (stats.count - 1)
        inner *= self._deviations[:, None] * self._deviations
        # n features span n - 1 directions: eigenvalues beyond are rounding, and would be magnified by the root.
        spectrum = np.linalg.eigvalsh(inner)[::-1][: stats.count - 1]
        traces = self.trace + np.trace(stats.scatter) / (stats.count - 1)
        found = stats.mean @ stats.mean + traces - 2 * np.sqrt(spectrum.clip(min=0)).sum()
        return max(float(found), 0.0)

    def _turned(self, scatter: Doubles) -> Doubles:
        turned: Doubles = self.axes.T @ scatter @ self.axes
        return turned


def frechet_distance(a: FeatureStats, b: FeatureStats) -> float:
    """Frechet distance of the Gaussians of two sets of features of one dimension, >= 0; symmetric to rounding.

    Equals torch-fidelity's on the same features to 1e-6 of itself and 1e-8 of the covariances' traces, as long as
    these are float64: the library takes the mean of float32 features in float32.
    """
    assert a.dimension == b.dimension, f"features of {a.dimension} and of {b.dimension} dimensions do not compare"
    return Reference(b).distance(a)
