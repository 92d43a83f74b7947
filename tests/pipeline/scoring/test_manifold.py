"""Precision, recall and nearest features: constructed cases, brute force, equality with torch-fidelity."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from pipeline.errors import UserError
from pipeline.scoring import manifold
from pipeline.scoring.manifold import Manifold, nearest, precision_recall


def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.square(a[:, None].astype(np.float64) - b[None].astype(np.float64)).sum(axis=2)


def by_force(fake: np.ndarray, real: np.ndarray, neighbours: int) -> tuple[float, float]:
    radii = [np.sort(squared(side, side), axis=1)[:, neighbours] for side in (real, fake)]
    precision = (squared(fake, real) <= radii[0]).any(axis=1).mean()
    return float(precision), float((squared(real, fake) <= radii[1]).any(axis=1).mean())


def test_sees_what_is_missing() -> None:
    generator = np.random.default_rng(0)
    real = np.concatenate([generator.normal(size=(200, 3)), generator.normal(size=(200, 3)) + 50])
    assert precision_recall(real, real) == (1.0, 1.0)
    half = precision_recall(generator.normal(size=(400, 3)), real)  # one of two modes
    assert half.precision > 0.9
    assert 0.4 < half.recall <= 0.5
    assert precision_recall(real - 500, real) == (0.0, 0.0)


def test_counts_on_a_line() -> None:
    """Real images at 0, 1, 2, 3: with one neighbour their balls cover [-1, 4]. Samples' balls: [8, 12] and [-2, 2]."""
    real, fake = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[-1.0], [0.5], [4.0], [4.25], [10.0], [12.0]])
    assert precision_recall(fake, real, neighbours=1) == (3 / 6, 3 / 4)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("fakes", "reals", "width", "neighbours"), [(300, 200, 5, 3), (150, 400, 64, 3), (90, 90, 16, 1)]
)
def test_equals_torch_fidelity(kind: type, fakes: int, reals: int, width: int, neighbours: int) -> None:
    generator = np.random.default_rng(width)
    fake = (generator.normal(size=(fakes, width)) * 0.95 + 0.1).astype(kind)
    real = generator.normal(size=(reals, width)).astype(kind)
    expected = prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=neighbours, verbose=False
    )
    found = precision_recall(fake, real, neighbours=neighbours)
    # The library rounds the share to float32.
    assert tuple(np.float32(found)) == (np.float32(expected["precision"]), np.float32(expected["recall"]))
    assert 0.05 < min(found) <= max(found) < 1
    exchanged = precision_recall(real, fake, neighbours=neighbours)
    assert exchanged == (found.recall, found.precision)


@pytest.mark.parametrize("entries", [1, 1000, 1 << 24])
@pytest.mark.parametrize("offset", [0.0, 2.0**20])
def test_ties_and_large_means_are_exact(entries: int, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of a lattice: nearly all distances are equal to some radius, and float32 alone could not tell."""
    monkeypatch.setattr(manifold, "_ENTRIES", entries)
    monkeypatch.setattr(manifold, "_PAIRS", max(entries, 50))
    generator = np.random.default_rng(0)
    fake, real = (generator.integers(0, 5, size=(count, 6)) + offset for count in (120, 150))
    found = precision_recall(fake, real, neighbours=2)
    assert found == by_force(fake, real, 2)
    assert 0.05 < min(found) <= max(found) < 1


def test_is_that_of_float64_where_float32_sees_nothing() -> None:
    """Clusters far apart for their size: within one, all distances are below the rounding of float32 squares."""
    generator = np.random.default_rng(0)
    homes = generator.normal(size=(4, 8)) * 1e3
    fake, real = (homes[np.arange(count) % 4] + generator.normal(size=(count, 8)) * 1e-3 for count in (160, 200))
    found = precision_recall(fake, real)
    assert found == by_force(fake, real, 3)
    assert 0.05 < min(found) <= max(found) < 1


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150])
def test_scale_does_not_matter(scale: float) -> None:
    generator = np.random.default_rng(0)
    fake, real = generator.normal(size=(80, 6)), generator.normal(size=(90, 6))
    assert precision_recall(fake * scale, real * scale) == precision_recall(fake, real)
    far = np.concatenate([real * 1e-3, np.full((1, 6), 1e60)])  # out of float32's range beside the others
    indices, _ = nearest(far, real, count=2)
    np.testing.assert_array_equal(indices, np.argsort(squared(far, real), axis=1, kind="stable")[:, :2])


def test_distances_that_vanish_in_float32_are_decided_all_the_same() -> None:
    """Far images, four alike at either end, set the scale: beside them the squares of others are 0 in float32."""
    generator = np.random.default_rng(0)
    ends = np.repeat([[1.0], [-1.0]], 4, axis=0) * np.ones(6)
    fake, real = (np.concatenate([generator.normal(size=(n, 6)) * 1e-28, ends]) for n in (80, 90))
    found = precision_recall(fake, real)
    assert found == by_force(fake, real, 3)
    assert 0.05 < min(found) <= max(found) < 1


def test_a_collapsed_set_has_balls_without_extent() -> None:
    assert precision_recall(np.ones((50, 4)), np.random.default_rng(0).normal(size=(60, 4))).recall == 0
    assert Manifold(np.ones((50, 4)), 3).holds([[1.0, 1, 1, 1], [1, 1, 1, np.nextafter(1, 2)]]).tolist() == [
        True,
        False,
    ]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nearest_are_those_of_brute_force(kind: type) -> None:
    generator = np.random.default_rng(0)
    reference = (generator.normal(size=(300, 20)) + 100).astype(kind)
    features = (generator.normal(size=(40, 20)) + 100).astype(kind)
    features[7] = reference[123]
    indices, distances = nearest(features, reference, count=5)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, np.argsort(squared(features, reference), axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(distances, np.sqrt(np.sort(squared(features, reference), axis=1)[:, :5]), rtol=1e-14)
    assert (indices[7, 0], distances[7, 0]) == (123, 0)


def test_nearest_of_equals_is_the_first() -> None:
    indices, distances = nearest([[0.0]], [[2.0], [1.0], [-1.0], [1.0]], count=3)
    assert indices.tolist() == [[1, 2, 3]]
    assert distances.tolist() == [[1, 1, 1]]


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the features a float32 copy of one set and a few blocks; the matrix of distances would be 8 times that."""
    monkeypatch.setattr(manifold, "_ENTRIES", 1 << 17)
    monkeypatch.setattr(manifold, "_PAIRS", 1 << 14)
    features = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float32)
    tracemalloc.start()
    precision_recall(features[:2000], features)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * (1 << 20) < 4000 * 4000 * 4 / 7


def test_too_few_are_refused() -> None:
    with pytest.raises(UserError, match="need 4 or more images"):
        precision_recall(np.ones((3, 2)), np.ones((9, 2)))
    with pytest.raises(UserError, match="no 10 nearest images among 9"):
        nearest(np.ones((3, 2)), np.ones((9, 2)), count=10)
