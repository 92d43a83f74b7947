"""Taking turns: variants of the same work in one process, their order rotating, compared repetition by repetition.

What else the machine does then hits all of them alike, and a ratio of single repetitions says more than a quotient of
two means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]
Spread = tuple[float, float, float]  # median, least, most


@dataclass(frozen=True)
class Variant:
    """One way of doing it: its name, and a call that does it and says of how many units (images, say)."""

    name: str
    run: Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """Seconds per unit of each repetition."""

    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Median units per second."""
        return float(1.0 / np.median(self.seconds))

    def faster_than(self, other: Timing) -> Spread:
        """How many times as fast, by repetition."""
        return spread([theirs / own for own, theirs in zip(self.seconds, other.seconds, strict=True)])

    def share_of(self, other: Timing) -> Spread:
        """Its time as a share of the other's, by repetition."""
        return spread([own / theirs for own, theirs in zip(self.seconds, other.seconds, strict=True)])


def spread(values: Sequence[float]) -> Spread:
    return float(np.median(values)), min(values), max(values)


def alternate(variants: Sequence[Variant], repeats: int, clock: Clock = time.process_time) -> dict[str, Timing]:
    """Time all variants ``repeats`` times, after one round that is not counted.

    The clock is that of this process's CPU time unless another is given: on a shared machine wall time is noise.
    """
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for repeat in range(repeats + 1):
        turn = repeat % len(variants)
        for variant in (*variants[turn:], *variants[:turn]):
            began = clock()
            units = variant.run()
            if repeat:
                seconds[variant.name].append((clock() - began) / units)
    return {name: Timing(tuple(found)) for name, found in seconds.items()}
