"""Which of several points no other beats in every goal at once: the Pareto front. It ranks nothing on the front.

FID and the accuracy of samples rarely agree, so a search and an ablation show the front of both. No NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def front(points: Sequence[tuple[float, ...]], *, minimise: Sequence[bool] = (True, False)) -> list[int]:
    """Indices of the ``points`` that no other dominates, by ascending first coordinate, then by index.

    ``minimise`` says of each coordinate whether lower is better; as it stands, (FID, accuracy). A point dominates
    another when it is at least as good in every coordinate and better in one: so equal points never dominate each
    other, and are all on the front or all off it. Infinite coordinates are allowed. ValueError for a point that has
    another number of coordinates than ``minimise``, or NaN, which is neither better nor worse than anything.
    """
    for point in points:
        if len(point) != len(minimise):
            raise ValueError(f"the point {point} has {len(point)} coordinates where there are {len(minimise)} goals")
        if any(math.isnan(value) for value in point):
            raise ValueError(f"the point {point} has a coordinate that is no number, so it cannot be compared")
    # Lower is better in every coordinate of a cost.
    costs = [tuple(x if low else -x for x, low in zip(point, minimise, strict=True)) for point in points]
    kept = [index for index, cost in enumerate(costs) if not any(_dominates(other, cost) for other in costs)]
    return sorted(kept, key=lambda index: (points[index][0], index))


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
