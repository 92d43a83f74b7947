"""What a few paired replicates show, and what they do not: plain numbers in, plain numbers out. No scores, no words.

Everything rests on Student's t of the differences, taken seed by seed, so that what a seed does to both cells cancels.
It is exact where those differences are normal, which so few cannot check; tests without that assumption cannot help
(of 3 differences all 2**3 sign patterns are too few: their smallest two-sided p value is 0.25).

The price of few replicates, in standard deviations of the paired differences (level 0.05, power 0.8):

    replicates                                     3      4      5     10
    half width of the interval, 1 comparison     2.48   1.59   1.24   0.72
    half width of the interval, 5 comparisons    5.73   2.92   2.06   1.03
    smallest difference seen, 1 comparison       3.26   2.13   1.68   1.00
    smallest difference seen, 5 comparisons      7.32   3.72   2.63   1.33

and the standard deviation itself is known to a factor of 0.52 to 6.3 from 3 replicates, 0.60 to 2.9 from 5. So that
nothing was found among few replicates is no sign of equality: that takes ``equivalence``, with a margin.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Paired(NamedTuple):
    """A mean difference of ``n`` pairs, its standard error and interval, and the two-sided p value of no difference."""

    mean: float
    error: float
    low: float
    high: float
    p: float
    n: int

    @property
    def deviation(self) -> float:
        """Standard deviation of the differences."""
        return self.error * math.sqrt(self.n)


class Equivalence(NamedTuple):
    """Whether a mean difference of ``n`` pairs is within ``margin`` of 0, by its interval; p of it being outside."""

    equal: bool
    low: float
    high: float
    margin: float
    p: float
    mean: float
    n: int


def paired_difference(cell: Sequence[float], base: Sequence[float], *, confidence: float = 0.95) -> Paired:
    """The mean of ``cell`` - ``base``, pair by pair, by the paired t test: one comparison, not corrected for others.

    Both hold one value per seed, in the same order of seeds. Where all differences are equal, but for rounding, the
    error is 0, the interval is a point and p is 0, or 1 where there is no difference: there, n replicates have shown no
    spread at all, which is not to say that there is none. ValueError for fewer than 2 pairs, unequal lengths, NaN or
    infinity.
    """
    mean, error, count = _moments(cell, base)
    reach = _quantile(1 - _error_rate(confidence) / 2, count - 1) * error
    return Paired(mean, error, mean - reach, mean + reach, min(1.0, 2 * _tail(abs(mean), error, count - 1)), count)


def is_found(p: float | None, confidence: float) -> bool:
    """Whether a difference counts as found: its ``p``, adjusted by ``holm``, is at most 1 - ``confidence``. One
    without a p, for want of seeds or of any spread between them, never does."""
    return p is not None and p <= 1 - confidence


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the given order (Holm 1979): with p(1) <= ... <= p(m), the i-th is the
    maximum over j <= i of (m - j + 1) p(j), at most 1.

    Calling a difference real where its adjusted value is at most alpha calls any that is none so with probability alpha
    at most, whatever the dependence between the comparisons: all share one baseline. ValueError for a p outside [0, 1].
    """
    for value in p:
        if not 0 <= value <= 1:
            raise ValueError(f"{value} is no p value: those are between 0 and 1")
    adjusted, so_far = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        so_far = max(so_far, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = so_far
    return adjusted


def simultaneous_confidence(confidence: float, comparisons: int) -> float:
    """What each of ``comparisons`` intervals must have so that all of them hold at once with ``confidence``.

    This is Bonferroni's 1 - (1 - confidence) / m. Intervals made so never contradict Holm's decisions: one without 0
    has m p < alpha, so Holm finds that difference; and one that Holm does not find has 0 in its interval. Only the
    reverse may fail: Holm may find a difference whose interval reaches just across 0, and its size is then open.
    Intervals at Holm's own levels, alpha / (m - i + 1), would agree both ways and not hold at once: of 5 differences
    that are clear, and of very different sizes, one or more would miss in 11 % of ablations instead of 5 %. Intervals
    that agree and hold (Guilbaud 2008) say of a difference found, unless all are, only that it is not 0.
    """
    if comparisons < 1:
        raise ValueError(f"there are {comparisons} comparisons where there must be at least 1")
    return 1 - _error_rate(confidence) / comparisons


def simultaneous_differences(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], *, comparisons: int = 0, confidence: float = 0.95
) -> list[Paired]:
    """``paired_difference`` of each (cell, base) of one family: intervals that hold at once (Bonferroni), p by Holm.

    ``comparisons`` is the size of the family where that is more than the ``pairs``: the others count as not found, so
    that a comparison that is not possible yet already has its share, and will not move the others.
    """
    family = max(comparisons, len(pairs))
    if not family:
        return []
    each = simultaneous_confidence(confidence, family)
    found = [paired_difference(cell, base, confidence=each) for cell, base in pairs]
    adjusted = holm([one.p for one in found] + [1.0] * (family - len(found)))
    return [one._replace(p=p) for one, p in zip(found, adjusted, strict=False)]


def detectable(
    deviation: float, n: int, *, comparisons: int = 1, confidence: float = 0.95, power: float = 0.8
) -> float:
    """The smallest true difference that a paired t test of ``n`` replicates finds with probability ``power``.

    Solved from the noncentral t of n - 1 degrees of freedom, whose noncentrality is sqrt(n) difference / ``deviation``
    (the standard deviation of the paired differences), at the level (1 - confidence) / ``comparisons``: what the
    correction leaves to a comparison that is the only real one (Holm's later steps see a little more). It is as
    uncertain as the deviation: see above. ValueError for n < 2, a negative deviation, or a power outside
    [0.5, 1), below which the wrong direction would count.
    """
    from scipy.special import nctdtrinc

    if n < 2 or not (0 <= deviation < math.inf) or not 0.5 <= power < 1:
        raise ValueError(
            f"{n} replicates with deviation {deviation} and power {power} have no detectable difference: there must be "
            "2 or more, the deviation at least 0 and the power from 0.5 to below 1"
        )
    level = 1 - simultaneous_confidence(confidence, comparisons)
    threshold = _quantile(1 - level / 2, n - 1)
    return deviation / math.sqrt(n) * float(nctdtrinc(n - 1, 1 - power, threshold))


def equivalence(
    cell: Sequence[float], base: Sequence[float], *, margin: float, confidence: float = 0.95
) -> Equivalence:
    """Whether ``cell`` and ``base`` differ by less than ``margin``, by two one-sided t tests (Schuirmann 1987).

    Equal where both tests reject at level alpha = 1 - confidence, which is where the interval of confidence
    1 - 2 alpha lies inside (-margin, margin); p is the larger of the two. A pair whose true difference is the margin is
    called equal with probability alpha at most. One claim, not corrected for others. ValueError as in
    ``paired_difference``, for a margin that is not above 0, and for a confidence of 0.5 or less.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"the margin is {margin} where it must be a finite number above 0")
    alpha = _error_rate(confidence)
    if alpha >= 0.5:
        raise ValueError(f"the confidence is {confidence} where a claim of equality needs more than 0.5")
    mean, error, count = _moments(cell, base)
    reach = _quantile(1 - alpha, count - 1) * error
    low, high = mean - reach, mean + reach
    p = _tail(margin - abs(mean), error, count - 1)
    return Equivalence(-margin < low and high < margin, low, high, margin, p, mean, count)


def _moments(cell: Sequence[float], base: Sequence[float]) -> tuple[float, float, int]:
    """Mean of the differences, its standard error, and their count."""
    count = len(cell)
    if count != len(base):
        raise ValueError(f"{count} and {len(base)} values are no pairs: both need one value for every seed")
    if count < 2:
        raise ValueError(f"{count} pairs show no spread, so there is no interval: there must be 2 or more")
    if not all(math.isfinite(value) for value in (*cell, *base)):
        raise ValueError(f"one of the {count} pairs is not a finite number")
    apart = [a - b for a, b in zip(cell, base, strict=True)]
    # 0.8 - 0.7 and 0.9 - 0.8 are one difference: what rounding does is no spread, and would look like certainty.
    rounding = 4 * sys.float_info.epsilon * max(abs(value) for value in (*cell, *base))
    if max(apart) - min(apart) <= rounding:
        return (apart[0] if abs(apart[0]) > rounding else 0.0), 0.0, count
    mean = math.fsum(apart) / count
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in apart) / (count - 1) / count), count


def _error_rate(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence is {confidence} where it must be between 0 and 1, such as 0.95")
    return 1 - confidence


def _quantile(share: float, freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _tail(distance: float, error: float, freedom: int) -> float:
    """P(T >= distance / error) of Student's t; where there is no error, whether the distance is above 0."""
    from scipy.special import stdtr

    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(freedom, -distance / error))
