"""Taking turns, by a clock that the test moves."""

from __future__ import annotations

import pytest

from stages.benchmarks.timing import Timing, Variant, alternate


def test_variants_take_turns_in_rotating_order_and_the_first_round_does_not_count() -> None:
    now, calls = 0.0, list[str]()

    def variant(name: str, seconds: float, units: float) -> Variant:
        def run() -> float:
            nonlocal now
            calls.append(name)
            now += seconds * (10.0 if len(calls) <= 2 else 1.0)  # slow while it warms up
            return units

        return Variant(name, run)

    found = alternate([variant("a", 2.0, 4.0), variant("b", 3.0, 1.0)], 2, lambda: now)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": Timing((0.5, 0.5)), "b": Timing((3.0, 3.0))}
    assert found["a"].rate == 2.0


def test_ratios_are_of_single_repetitions() -> None:
    """A repetition in which the machine was twice as slow says the same of both."""
    mine, its = Timing((1.0, 2.0, 1.5)), Timing((2.0, 4.0, 2.0))
    assert mine.share_of(its) == (0.5, 0.5, 0.75)
    assert mine.faster_than(its) == pytest.approx((2.0, 4 / 3, 2.0))
