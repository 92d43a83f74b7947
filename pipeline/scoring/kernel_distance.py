"""Kernel distance (KID): squared maximum mean discrepancy of two sets of features. Unbiased at any sample count.

Binkowski et al. 2018: k(x, y) = (x . y / D + 1)^3, and over subsets of m features of either set
sum_{i != j} k(x_i, x_j) / m(m-1) + sum_{i != j} k(y_i, y_j) / m(m-1) - 2 sum_{ij} k(x_i, y_j) / m^2,
which may be below zero where the sets are alike. Subsets are drawn by position: give features in index order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.scoring.statistics import Doubles, Features, Spread, as_features

_ENTRIES = 1 << 23  # of a kernel matrix at once


def kernel_distance(
    fake: npt.ArrayLike, real: npt.ArrayLike, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> Spread:
    """KID of features (N, D) and (M, D) over random subsets, in float64: the mean over subsets, and their spread.

    The spread is that of one subset; subsets share samples, so it is no standard error of the mean. Draws the same
    subsets as torch-fidelity and equals it to rounding on float64 features. Raises UserError where a set is smaller
    than a subset, or a subset smaller than 2.
    """
    ours, theirs = as_features(fake), as_features(real)
    assert ours.shape[1] == theirs.shape[1], f"features of {ours.shape[1]} and of {theirs.shape[1]} dimensions"
    if not 2 <= subset_size <= min(len(ours), len(theirs)):
        raise UserError(
            f"KID over subsets of {subset_size} needs as many samples and real images, and 2 or more, "
            f"but there are {len(ours)} and {len(theirs)}"
        )
    generator = np.random.RandomState(seed)  # torch-fidelity's generator: the same subsets
    drawn = []
    for _ in range(subsets):
        left = generator.choice(len(ours), subset_size, replace=False)
        drawn.append((left, generator.choice(len(theirs), subset_size, replace=False)))
    if max(len(ours), len(theirs)) ** 2 <= subsets * subset_size**2:
        # Subsets overlap so much that the kernel of all pairs costs less than that of each subset's pairs.
        members = [np.zeros((len(side), subsets)) for side in (ours, theirs)]
        for subset, pair in enumerate(drawn):
            for side, chosen in zip(members, pair, strict=True):
                side[chosen, subset] = 1
        found = _discrepancies(ours, theirs, members[0], members[1], subset_size)
    else:
        all_of = np.ones((subset_size, 1))
        found = np.concatenate([_discrepancies(ours[x], theirs[y], all_of, all_of, subset_size) for x, y in drawn])
    return Spread(float(found.mean()), float(found.std()))


def _discrepancies(a: Features, b: Features, in_a: Doubles, in_b: Doubles, size: int) -> Doubles:
    """The distance of each subset (S,), of ``size`` features each, from memberships (N, S) and (M, S) of 0 and 1."""
    x, y = (values.astype(np.float64, copy=False) for values in (a, b))
    within = _kernel_sums(x, x, in_a, in_a) - _own_sums(x, in_a)
    within += _kernel_sums(y, y, in_b, in_b) - _own_sums(y, in_b)
    across: Doubles = _kernel_sums(x, y, in_a, in_b)
    return within / (size * (size - 1)) - 2 * across / size**2


def _kernel_sums(a: Doubles, b: Doubles, in_a: Doubles, in_b: Doubles) -> Doubles:
    """Of each subset the sum of k(x, y) over its x in ``a`` and its y in ``b``: (S,)."""
    sums = np.zeros(in_a.shape[1])
    block = max(1, _ENTRIES // len(b))
    for start in range(0, len(a), block):
        rows = slice(start, start + block)
        kernel = _kernel(a[rows] @ b.T, a.shape[1])
        sums += np.einsum("ns,ns->s", in_a[rows], kernel @ in_b)
    return sums


def _own_sums(a: Doubles, inside: Doubles) -> Doubles:
    """Of each subset the sum of k(x, x) over its x: (S,)."""
    return _kernel(np.einsum("nd,nd->n", a, a), a.shape[1]) @ inside


def _kernel(products: Doubles, dimension: int) -> Doubles:
    """(x . y / D + 1)^3 of the inner products; they are overwritten."""
    products /= dimension
    products += 1
    cubes: Doubles = products * products
    cubes *= products
    return cubes
