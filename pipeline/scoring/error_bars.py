"""How far to trust an FID: standard errors, paired differences, the limit at infinitely many samples. No FID itself.

FID has an error from chance and a bias from the sample count. Both are read off the same blocks of the samples.

Chance: the delete-a-block jackknife (Efron and Tibshirani 1993, chapter 11; Shao and Wu 1989). With f_i the FID
without block i of g and f their mean, its standard error is sqrt((g - 1) / g * sum_i (f_i - f)^2). All f_i share the
bias of their sample count, which cancels; a bootstrap's resamples repeat samples, which adds bias of its own.

Bias: to first order FID_n = FID_inf + c / n, so FID_inf is the intercept of a line through FIDs of fewer samples
against 1 / n (Chong and Forsyth 2020). Points of that curve share their samples: what the line misses says nothing of
chance, which the jackknife of the intercept does say.

The reference counts as fixed: these are errors of the draw of samples, and those of comparisons between draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.scoring.frechet import Reference
from pipeline.scoring.statistics import Doubles, FeatureStats, as_features, merge_stats

BLOCKS = 20
PARTS = (1, 2, 4, 5)  # of the samples: into how many the curve splits them; divisors of BLOCKS
STRAIGHT = 2  # samples per dimension below which FID bends too much against 1 / n to lay a line through


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Jackknife:
    """A score of all samples, and the same without each block of them; a few numbers that outlive the features."""

    value: float
    without: Doubles  # (blocks,)

    @property
    def estimate(self) -> Estimate:
        """The score and its delete-a-block standard error."""
        blocks = len(self.without)
        spread = np.square(self.without - self.without.mean()).sum()
        return Estimate(self.value, float(np.sqrt((blocks - 1) / blocks * spread)))

    def minus(self, other: Jackknife) -> Estimate:
        """The difference of scores of two sets drawn with the same sample indices: what they share cancels."""
        assert len(self.without) == len(other.without), "only equal blocks can be left out of both"
        return Jackknife(self.value - other.value, self.without - other.without).estimate


@dataclass(frozen=True)
class FidCurve:
    """FID against sample count, and the same without each block: see `SampleBlocks.curve`."""

    sizes: tuple[float, ...]  # (P,), falling; samples in one part
    values: Doubles  # (P,), each the mean over the parts of that size
    without: Doubles  # (blocks, P)


class SampleBlocks:
    """A sample set split at random into blocks, of which any union has an FID for one `eigvalsh`.

    Which sample lies in which block depends on nothing but their number: sets of equal size share blocks, and neither
    a set sorted by class nor one that goes through the classes in turn gives blocks of few classes.
    Takes blocks x D^2 x 8 bytes.
    """

    def __init__(self, features: npt.ArrayLike, reference: Reference, *, blocks: int = BLOCKS) -> None:
        """Features (N, D) in index order. Raises UserError with fewer than two samples per block."""
        values = as_features(features)
        self.count, self.dimension = values.shape
        if self.count < 2 * blocks:
            raise UserError(f"error bars over {blocks} blocks need {2 * blocks} samples or more, not {self.count}")
        self._reference = reference
        order = np.random.default_rng(0).permutation(self.count)
        self._stats = [
            FeatureStats.from_features(reference.turn(values[np.sort(chosen)]))
            for chosen in np.array_split(order, blocks)
        ]

    @cached_property
    def fid(self) -> Jackknife:
        """FID of all samples, and without each block."""
        value, without = self._with_and_without(range(len(self._stats)))
        return Jackknife(value, without)

    def curve(self, parts: Sequence[int] = PARTS) -> FidCurve | None:
        """FID of the samples split into so many parts of consecutive blocks, averaged over parts of a size.

        Splits of fewer than ``STRAIGHT`` samples per dimension are left out; None where fewer than two are left.
        """
        blocks = len(self._stats)
        assert all(blocks % split == 0 for split in parts), f"parts are made of whole blocks, {blocks} in all"
        fitting = sorted({split for split in parts if self.count >= STRAIGHT * self.dimension * split})
        if len(fitting) < 2:
            return None
        columns = [self._split(split) for split in fitting]
        return FidCurve(
            tuple(self.count / split for split in fitting),
            np.array([value for value, _ in columns]),
            np.stack([without for _, without in columns], axis=1),
        )

    def _split(self, parts: int) -> tuple[float, Doubles]:
        """Mean FID of the parts; and without each block, which is missed by its own part alone."""
        if parts == 1:
            return self.fid.value, self.fid.without
        size = len(self._stats) // parts
        found = [self._with_and_without(range(part * size, (part + 1) * size)) for part in range(parts)]
        value = float(np.mean([whole for whole, _ in found]))
        return value, np.concatenate([value + (without - whole) / parts for whole, without in found])

    def _with_and_without(self, chosen: range) -> tuple[float, Doubles]:
        stats = [self._stats[block] for block in chosen]
        whole = merge_stats(stats)
        distance = self._reference.turned_distance
        return distance(whole), np.array([distance(whole.without(block)) for block in stats])


def jackknife(features: npt.ArrayLike, reference: Reference, *, blocks: int = BLOCKS) -> Estimate:
    """FID of features (N, D) against the reference, and its delete-a-block standard error."""
    return SampleBlocks(features, reference, blocks=blocks).fid.estimate


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, reference: Reference, *, blocks: int = BLOCKS) -> Estimate:
    """FID of features ``a`` less that of ``b``, (N, D) both, and its standard error: same indices, same blocks.

    Far below the error of either FID where equal indices make alike samples (equal seeds, labels, noise). Raises
    UserError where the counts differ.
    """
    counts = len(as_features(a)), len(as_features(b))
    if counts[0] != counts[1]:
        raise UserError(
            f"a paired difference needs two sample sets of the same indices, not {counts[0]} and {counts[1]} samples"
        )
    first, second = (SampleBlocks(side, reference, blocks=blocks).fid for side in (a, b))
    return first.minus(second)


def fid_curve(
    features: npt.ArrayLike, reference: Reference, *, parts: Sequence[int] = PARTS, blocks: int = BLOCKS
) -> FidCurve | None:
    """FID of features (N, D) against sample count: see `SampleBlocks.curve`."""
    return SampleBlocks(features, reference, blocks=blocks).curve(parts)


def fid_infinity(curve: FidCurve) -> Estimate:
    """FID at infinitely many samples: the intercept of the least-squares line in 1 / n, and its standard error.

    The error is the jackknife's of the intercept. May be below zero, where the true FID is within an error of it.
    """
    inverse = 1 / np.array(curve.sizes)
    centred = inverse - inverse.mean()
    # Without a block all 1 / n grow by one factor, which leaves the intercept where it is: the weights serve both.
    weights = 1 / len(inverse) - inverse.mean() * centred / (centred @ centred)
    return Jackknife(float(curve.values @ weights), curve.without @ weights).estimate


class SampleSize(NamedTuple):
    """Whether so many images are enough for an FID, and a sentence where that needs saying."""

    verdict: Literal["refused", "flagged", "enough"]
    sentence: str | None


def sample_size(count: int, dimension: int, *, images: str = "samples") -> SampleSize:
    """Judge ``count`` images, named as in the sentence, for FID on features of ``dimension``.

    Refused with no more images than dimensions, whose covariance has no full rank; flagged below 20 times as many.
    """
    if count <= dimension:
        return SampleSize(
            "refused",
            f"no FID of {count:,} {images}: features of {dimension:,} dimensions need more images than that "
            f"for a covariance, and {20 * dimension:,} for little bias; KID has no such limit",
        )
    if count < 20 * dimension:
        return SampleSize(
            "flagged",
            f"the FID of {count:,} {images} is biased upwards, being fewer than 20 times the {dimension:,} dimensions "
            f"of the features ({20 * dimension:,}): compare it at equal counts only, and read KID beside it",
        )
    return SampleSize("enough", None)
