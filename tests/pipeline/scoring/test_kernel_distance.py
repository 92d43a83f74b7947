"""KID: equality with torch-fidelity, no bias, and the two ways to sum it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from pipeline.errors import UserError
from pipeline.scoring.kernel_distance import kernel_distance


@pytest.mark.parametrize(
    ("fakes", "reals", "width", "subsets", "size"),
    [(400, 500, 16, 30, 100), (900, 300, 40, 10, 50), (128, 128, 8, 5, 128), (60, 5000, 7, 12, 60)],
)
def test_equals_torch_fidelity(fakes: int, reals: int, width: int, subsets: int, size: int) -> None:
    """Where subsets cover the sets many times over, and where they do not."""
    generator = np.random.default_rng(0)
    fake, real = generator.normal(size=(fakes, width)) * 1.1 + 0.2, generator.normal(size=(reals, width))
    found = kernel_distance(fake, real, subsets=subsets, subset_size=size)
    expected = kid_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    assert math.isclose(found.mean, expected["kernel_inception_distance_mean"], rel_tol=1e-9)
    assert math.isclose(found.std, expected["kernel_inception_distance_std"], rel_tol=1e-9, abs_tol=1e-12)
    swapped = kernel_distance(fake[::-1], real, subsets=subsets, subset_size=size)
    assert size in (fakes, reals) or swapped.mean != found.mean  # the order of samples matters, hence index order


def test_float32_features_are_summed_in_float64() -> None:
    generator = np.random.default_rng(0)
    fake, real = (generator.normal(size=(300, 16)).astype(np.float32) for _ in range(2))
    found = kernel_distance(fake, real, subsets=5, subset_size=200)
    assert found == kernel_distance(fake.astype(np.float64), real.astype(np.float64), subsets=5, subset_size=200)


def test_of_equal_distributions_it_is_zero_on_average() -> None:
    """300 independent pairs of sets: the mean is within 4 of its standard errors of zero, which are small."""
    generator = np.random.default_rng(1)
    found = np.array(
        [
            kernel_distance(*generator.normal(size=(2, 50, 4)), subsets=1, subset_size=50, seed=repeat).mean
            for repeat in range(300)
        ]
    )
    error = found.std(ddof=1) / math.sqrt(len(found))
    assert abs(found.mean()) < 4 * error
    # With the diagonal of the kernel left in, each set would add E[k(x, x) - k(x, y)] / 50.
    length = (generator.normal(size=(100_000, 4)) ** 2).sum(axis=1)
    assert 2 * ((length / 4 + 1) ** 3).mean() / 50 > 40 * error


def test_a_set_smaller_than_a_subset_is_refused() -> None:
    with pytest.raises(UserError, match=r"subsets of 50 .* 40 and 60"):
        kernel_distance(np.ones((40, 2)), np.ones((60, 2)), subset_size=50)
    with pytest.raises(UserError, match="2 or more"):
        kernel_distance(np.ones((40, 2)), np.ones((60, 2)), subset_size=1)
