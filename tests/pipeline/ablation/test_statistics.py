"""What few replicates show: closed forms, and that intervals, tests and their sizes hold when it is simulated."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import chdtri

from pipeline.ablation import statistics
from pipeline.ablation.statistics import (
    Paired,
    detectable,
    equivalence,
    holm,
    is_found,
    paired_difference,
    simultaneous_confidence,
    simultaneous_differences,
)

T2 = 4.302652729911275  # the 0.975 quantile of Student's t of 2 degrees of freedom: sqrt(2) 0.95 / sqrt(1 - 0.95 ** 2)
ROUNDS = 10_000


def near(share: float, expected: float, rounds: int = ROUNDS) -> bool:
    """Within four standard errors of a simulated share."""
    return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / rounds)


def replicates(seed: int, cells: int, n: int, *, rounds: int = ROUNDS) -> list[list[list[float]]]:
    """Rounds of ``cells`` x ``n`` values of unit spread around what the seed does to all cells, which is larger."""
    dice = np.random.default_rng(seed)
    values = dice.normal(0, 1, (rounds, cells, n)) + dice.normal(0, 5, (rounds, 1, n))
    found: list[list[list[float]]] = values.tolist()
    return found


def raised(values: list[float], amount: float) -> list[float]:
    return [value + amount for value in values]


# --- closed forms


def test_a_paired_difference_of_three_seeds_by_hand() -> None:
    found = paired_difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])  # 1, 2, 3
    error, t = 1 / math.sqrt(3), 2 * math.sqrt(3)
    assert found.mean == 2
    assert found.error == pytest.approx(error)
    assert found.deviation == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((2 - T2 * error, 2 + T2 * error))
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # the distribution of 2 degrees of freedom
    assert found.n == 3


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]  # 2 x 0.5, and never below the one before it
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_the_figures_of_the_docstring_are_these() -> None:
    table = {
        label.strip(): [float(figure) for figure in figures.split()]
        for label, figures in re.findall(r"^    (\S.*?)  +([\d. ]+)$", statistics.__doc__ or "", re.MULTILINE)
    }
    counts = [int(count) for count in table["replicates"]]
    assert counts == [3, 4, 5, 10]
    for comparisons, named in ((1, "1 comparison"), (5, "5 comparisons")):
        level = simultaneous_confidence(0.95, comparisons)
        for column, n in enumerate(counts):
            values = np.random.default_rng(n).normal(size=n).tolist()
            interval = paired_difference(values, [0.0] * n, confidence=level)
            half = (interval.high - interval.low) / 2 / interval.deviation
            assert table[f"half width of the interval, {named}"][column] == pytest.approx(half, abs=0.005)
            seen = detectable(1.0, n, comparisons=comparisons)
            assert table[f"smallest difference seen, {named}"][column] == pytest.approx(seen, abs=0.005)
    for n, factors in ((3, [0.52, 6.3]), (5, [0.60, 2.9])):  # the interval of a deviation, by chi-squared
        assert [math.sqrt((n - 1) / chdtri(n - 1, tail)) for tail in (0.025, 0.975)] == pytest.approx(
            factors, rel=0.015
        )


# --- simulation


def test_the_paired_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    for n, confidence in ((3, 0.95), (5, 0.9)):
        found = [
            paired_difference(raised(cell, 0.7), base, confidence=confidence) for cell, base in replicates(n, 2, n)
        ]
        assert near(sum(one.low <= 0.7 <= one.high for one in found) / ROUNDS, confidence)


@pytest.mark.parametrize("real", [0, 2])
def test_holm_keeps_the_probability_of_any_false_find_where_cells_share_a_baseline(real: int) -> None:
    """With 5 comparisons of 3 seeds, of which ``real`` are real and large: finding those must not loosen it."""
    false = 0
    for base, *cells in replicates(20 + real, 6, 3, rounds=5000):
        moved = [raised(cell, 1000.0 if number < real else 0.0) for number, cell in enumerate(cells)]
        found = simultaneous_differences([(cell, base) for cell in moved])
        assert all(one.p <= 0.05 for one in found[:real])
        false += any(one.p <= 0.05 for one in found[real:])
    assert false / 5000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 5000)
    assert false / 5000 > 0.02  # nor is it so careful that it could find nothing


def test_simultaneous_intervals_hold_all_at_once_as_often_as_they_say() -> None:
    truth = [0.0, 1.0, 5.0, 30.0, -2.0]
    held = 0
    for base, *cells in replicates(31, 6, 3, rounds=5000):
        pairs = [(raised(cell, true), base) for cell, true in zip(cells, truth, strict=True)]
        found = simultaneous_differences(pairs)
        held += all(one.low <= true <= one.high for one, true in zip(found, truth, strict=True))
    assert held / 5000 > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 5000)
    assert held / 5000 < 0.985  # the shared baseline makes them hold a little more often than 0.951


def test_intervals_at_the_levels_of_holms_steps_would_not_hold_at_once() -> None:
    """What the docstring of ``simultaneous_confidence`` says against them."""
    dice, missed = np.random.default_rng(32), 0
    truth = [1e10, 1e8, 1e6, 1e4, 1e2]  # clear differences in a clear order, each from a baseline of its own
    for _ in range(4000):
        cells = [raised(values, true) for values, true in zip(dice.normal(0, 1, (5, 3)).tolist(), truth, strict=True)]
        ranked = sorted(range(5), key=lambda cell: paired_difference(cells[cell], [0.0] * 3).p)
        for rank, cell in enumerate(ranked):
            found = paired_difference(cells[cell], [0.0] * 3, confidence=1 - 0.05 / (5 - rank))
            if not found.low <= truth[cell] <= found.high:
                missed += 1
                break
    assert near(missed / 4000, 0.11, 4000)


def test_an_interval_without_zero_is_a_find_and_what_is_not_found_has_zero_in_its_interval() -> None:
    finds = 0
    for base, *cells in replicates(33, 4, 4, rounds=2000):
        moved = [raised(cell, 3.0 * number) for number, cell in enumerate(cells)]
        for one in simultaneous_differences([(cell, base) for cell in moved]):
            outside = one.low > 0 or one.high < 0
            assert not outside or one.p <= 0.05
            assert one.p <= 0.05 or one.low <= 0 <= one.high
            finds += one.p <= 0.05
    assert finds > 100


@pytest.mark.parametrize(("n", "comparisons", "power"), [(3, 1, 0.8), (3, 5, 0.8), (5, 5, 0.8), (4, 1, 0.6)])
def test_a_detectable_difference_is_found_as_often_as_it_says(n: int, comparisons: int, power: float) -> None:
    # A difference of two values of unit spread has the deviation sqrt(2).
    true = detectable(math.sqrt(2), n, comparisons=comparisons, power=power)
    level = 1 - simultaneous_confidence(0.95, comparisons)
    found = sum(paired_difference(raised(cell, true), base).p <= level for cell, base in replicates(40 + n, 2, n))
    assert near(found / ROUNDS, power)


def test_two_cells_that_differ_by_the_margin_are_called_equal_with_probability_alpha() -> None:
    for confidence in (0.95, 0.8):
        called = sum(
            equivalence(raised(cell, 20.0), base, margin=20.0, confidence=confidence).equal
            for cell, base in replicates(50, 2, 4)
        )
        assert near(called / ROUNDS, 1 - confidence)


def test_where_the_spread_hides_the_margin_equality_is_called_more_seldom_still() -> None:
    called = sum(equivalence(raised(cell, 1.0), base, margin=1.0).equal for cell, base in replicates(51, 2, 3))
    assert 0 < called / ROUNDS < 0.05


def test_equal_cells_are_shown_to_be_equal_by_a_margin_that_is_wide_enough() -> None:
    rows = replicates(52, 2, 5, rounds=1000)
    assert sum(equivalence(cell, base, margin=8.0).equal for cell, base in rows) > 950
    assert sum(equivalence(cell, base, margin=0.5).equal for cell, base in rows) < 50


# --- invariances


def test_a_paired_difference_is_blind_to_what_a_seed_does_to_both_and_to_the_order_of_seeds() -> None:
    cell, base, seeds = [4.0, 6.5, 5.0], [3.5, 5.0, 5.25], [100.0, -3.0, 64.0]
    plain = paired_difference(cell, base)
    moved = paired_difference(
        [a + shift for a, shift in zip(cell, seeds, strict=True)],
        [b + shift for b, shift in zip(base, seeds, strict=True)],
    )
    assert moved == pytest.approx(plain)
    assert paired_difference(cell[::-1], base[::-1]) == pytest.approx(plain)


def test_units_scale_all_but_p_and_swapping_the_cells_turns_the_sign() -> None:
    cell, base = [4.0, 6.5, 5.0], [3.5, 5.0, 5.25]
    plain = paired_difference(cell, base)
    scaled = paired_difference([8 * a for a in cell], [8 * b for b in base])
    assert scaled[:4] == pytest.approx([8 * value for value in plain[:4]])
    assert scaled.p == pytest.approx(plain.p)
    turned = paired_difference(base, cell)
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-plain.mean, -plain.high, -plain.low))
    assert turned.p == plain.p


def test_the_order_of_cells_does_not_matter() -> None:
    [[base, *cells]] = replicates(60, 5, 3, rounds=1)
    pairs = [(raised(cell, 10.0 * number), base) for number, cell in enumerate(cells)]
    expected = simultaneous_differences(pairs)
    for order in itertools.permutations(range(4)):
        assert simultaneous_differences([pairs[index] for index in order]) == [expected[index] for index in order]


def test_a_comparison_that_is_not_possible_yet_has_its_share_already() -> None:
    [[base, *cells]] = replicates(61, 4, 3, rounds=1)
    pairs = [(raised(cell, 40.0 * number), base) for number, cell in enumerate(cells)]
    for few in (1, 2):
        found = simultaneous_differences(pairs[:few], comparisons=3)
        all_of_them = simultaneous_differences(pairs)
        assert [(one.low, one.high) for one in found] == [(one.low, one.high) for one in all_of_them[:few]]
        own = [paired_difference(*pair).p for pair in pairs[:few]]
        assert [one.p for one in found] == holm([*own, *[1.0] * (3 - few)])[:few]
    assert simultaneous_differences([], comparisons=3) == simultaneous_differences([]) == []


def test_a_detectable_difference_grows_with_spread_and_family_and_falls_with_replicates() -> None:
    assert detectable(3.0, 4) == pytest.approx(3 * detectable(1.0, 4))
    assert detectable(0.0, 3) == 0
    assert detectable(1.0, 3, comparisons=5) > detectable(1.0, 3) > detectable(1.0, 4) > detectable(1.0, 4, power=0.7)
    assert detectable(1.0, 4, confidence=0.99) == pytest.approx(detectable(1.0, 4, comparisons=5))
    assert 100 < detectable(1.0, 2, comparisons=20) < 1000  # two replicates in a large family: hopeless, yet a number


def test_equality_holds_where_the_interval_is_inside_the_margin_and_p_agrees() -> None:
    cell, base = [1.1, 2.0, 3.2, 3.9], [1.0, 2.1, 3.0, 4.0]
    for margin in (0.05, 0.1, 0.2, 0.3, 1.0):
        found, ninety = equivalence(cell, base, margin=margin), paired_difference(cell, base, confidence=0.9)
        assert (found.low, found.high, found.mean) == pytest.approx((ninety.low, ninety.high, ninety.mean))
        assert found.equal == (-margin < found.low and found.high < margin) == (found.p < 0.05)
    assert equivalence(base, cell, margin=0.3).p == pytest.approx(equivalence(cell, base, margin=0.3).p)


# --- degenerate input


def test_differences_that_are_all_equal_have_a_point_for_an_interval() -> None:
    assert paired_difference([1.0, 2.0], [1.0, 2.0]) == Paired(0.0, 0.0, 0.0, 0.0, 1.0, 2)
    assert paired_difference([3.0, 4.0, 5.0], [1.0, 2.0, 3.0]) == Paired(2.0, 0.0, 2.0, 2.0, 0.0, 3)
    same = equivalence([3.0, 4.0], [1.0, 2.0], margin=2.0)  # exactly the margin is not within it
    assert (same.equal, same.p) == (False, 1.0)
    assert equivalence([3.0, 4.0], [1.0, 2.0], margin=2.5)[0::4] == (True, 0.0)


def test_what_rounding_does_to_equal_differences_is_no_spread() -> None:
    found = paired_difference([0.8, 0.9, 0.7], [0.7, 0.8, 0.6])  # three times 0.1, but for the last digit
    assert found == (pytest.approx(0.1), 0.0, pytest.approx(0.1), pytest.approx(0.1), 0.0, 3)
    assert paired_difference([0.1 + 0.2, 1.0], [0.3, 1.0]) == Paired(0.0, 0.0, 0.0, 0.0, 1.0, 2)
    assert paired_difference([0.8, 0.9, 0.7], [0.7, 0.8, 0.6 + 1e-12]).error > 0


def test_a_difference_is_found_by_its_p_value_and_never_without_one() -> None:
    assert [is_found(p, 0.95) for p in (0.0, 0.04, 0.06, 1.0, None)] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: paired_difference([1.0], [2.0]), "1 pairs show no spread, so there is no interval: there must be 2"),
        (lambda: paired_difference([1.0, 2.0], [2.0]), "2 and 1 values are no pairs"),
        (lambda: paired_difference([1.0, math.nan], [2.0, 2.0]), "one of the 2 pairs is not a finite number"),
        (lambda: equivalence([1.0, math.inf], [2.0, 2.0], margin=1.0), "one of the 2 pairs is not a finite number"),
        (lambda: equivalence([1.0, 2.0], [2.0, 2.0], margin=0.0), "the margin is 0.0 where it must be"),
        (lambda: equivalence([1.0, 2.0], [2.0, 2.0], margin=math.nan), "the margin is nan where it must be"),
        (lambda: equivalence([1.0, 2.0], [2.0, 2.0], margin=1.0, confidence=0.5), "needs more than 0.5"),
        (
            lambda: paired_difference([1.0, 2.0], [0.0, 0.0], confidence=95.0),
            "the confidence is 95.0 where it must be between 0 and 1",
        ),
        (lambda: holm([0.1, 1.5]), "1.5 is no p value"),
        (lambda: holm([math.nan]), "nan is no p value"),
        (lambda: simultaneous_confidence(0.95, 0), "there are 0 comparisons"),
        (lambda: detectable(1.0, 1), "there must be 2 or more"),
        (lambda: detectable(math.nan, 3), "the deviation at least 0"),
        (lambda: detectable(1.0, 3, power=1.0), "the power from 0.5 to below 1"),
    ],
)
def test_what_has_no_answer_is_refused_with_a_sentence(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        call()  # type: ignore[operator]


def test_importing_it_loads_neither_scipy_nor_numpy() -> None:
    ours = ("statistics", "comparisons", "findings")
    modules = ", ".join(["pipeline.search.pareto", *(f"pipeline.ablation.{name}" for name in ours)])
    code = f"import sys, {modules}; print(sorted({{'numpy', 'scipy', 'torch', 'ray', 'mlflow'}} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
