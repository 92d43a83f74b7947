"""An ablation's table compares what is paired, corrects for all cells, and says what it cannot compare."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest

from pipeline.ablation import statistics
from pipeline.ablation.comparisons import compare, equalities, ranking
from pipeline.ablation.spec import EqualClaim, Metric

Table = dict[str, dict[int, dict[Metric, float]]]


def table(metric: Metric, **cells: list[float]) -> Table:
    """Cells of one metric, under seeds 0, 1, ..."""
    return {cell: {seed: {metric: value} for seed, value in enumerate(found)} for cell, found in cells.items()}


def fids(**cells: list[float]) -> Table:
    return table("chained_fid", **cells)


NONE, SMALL, LARGE = [18.0, 19.5, 17.2], [14.1, 15.4, 13.5], [18.3, 19.2, 17.9]


def test_differences_and_what_could_have_been_seen_are_those_of_the_statistics() -> None:
    found = compare(fids(none=NONE, small=SMALL, large=LARGE), "none", confidence=0.9)
    assert (found.baseline, found.confidence, found.metrics, found.notes) == ("none", 0.9, ["chained_fid"], [])
    assert list(found.differences) == ["small", "large"]
    pairs = [(SMALL, NONE), (LARGE, NONE)]
    for cell, expected in zip(
        found.differences, statistics.simultaneous_differences(pairs, confidence=0.9), strict=True
    ):
        one = found.differences[cell]["chained_fid"]
        assert (one.mean, one.error, one.low, one.high, one.p, one.n) == expected
        seen = statistics.detectable(expected.deviation, 3, comparisons=2, confidence=0.9, power=0.8)
        assert one.detectable == seen


def test_only_seeds_that_both_have_are_compared_in_whichever_order_they_come() -> None:
    values = fids(none=NONE, small=SMALL)
    plain = compare(values, "none").differences["small"]["chained_fid"]
    values["small"] = dict(reversed(values["small"].items())) | {7: {"chained_fid": 99.0}}
    values["none"][8] = {"chained_fid": -99.0}
    found = compare(values, "none")
    assert found.differences["small"]["chained_fid"] == plain


def test_what_a_seed_does_to_every_cell_is_not_in_the_differences() -> None:
    steady = compare(fids(none=NONE, small=SMALL), "none")
    shaken = compare(
        fids(none=[v + 50 * s for s, v in enumerate(NONE)], small=[v + 50 * s for s, v in enumerate(SMALL)]), "none"
    )
    assert shaken.differences["small"]["chained_fid"] == pytest.approx(steady.differences["small"]["chained_fid"])


def test_each_metric_is_a_family_of_all_other_cells() -> None:
    values = fids(none=NONE, small=SMALL, large=LARGE)
    for cell, accuracies in {"none": [0.8, 0.82, 0.79], "small": [0.85, 0.86, 0.85], "large": [0.9, 0.8, 0.7]}.items():
        for seed, accuracy in enumerate(accuracies):
            values[cell][seed]["accuracy"] = accuracy
    alone, both = compare(fids(none=NONE, small=SMALL, large=LARGE), "none"), compare(values, "none")
    assert both.metrics == ["chained_fid", "accuracy"]
    for cell in ("small", "large"):
        assert both.differences[cell]["chained_fid"] == alone.differences[cell]["chained_fid"]
    assert compare(values, "none", metrics=["accuracy"]).metrics == ["accuracy"]
    fewer = compare(fids(none=NONE, small=SMALL), "none").differences["small"]["chained_fid"]
    wider = alone.differences["small"]["chained_fid"]
    assert None not in (*wider, *fewer)
    assert (wider.low or 0) < (fewer.low or 0) < (fewer.high or 0) < (wider.high or 0)
    assert (wider.p or 0) > (fewer.p or 0)
    assert (wider.detectable or 0) > (fewer.detectable or 0)


def test_a_difference_without_any_spread_has_no_interval_and_no_share_in_the_finds() -> None:
    shifted = [value + 4 for value in NONE]
    found = compare(fids(none=NONE, shifted=shifted, same=NONE, small=SMALL), "none").differences
    assert found["shifted"]["chained_fid"] == (pytest.approx(4), 0.0, None, None, None, None, 3)
    assert found["same"]["chained_fid"] == (0.0, 0.0, None, None, None, None, 3)
    # Holm's step of the others is that of a family in which nothing was found of these.
    expected = statistics.simultaneous_differences([(SMALL, NONE)], comparisons=3)[0]
    assert found["small"]["chained_fid"][:5] == expected[:5]


def test_a_cell_without_two_common_seeds_has_a_sentence() -> None:
    values = fids(none=NONE, small=SMALL, once=[15.0], failed=[])
    values["small"][0]["oracle_fid"] = values["none"][0]["oracle_fid"] = 4.0
    values["none"][1]["oracle_fid"] = 4.5
    found = compare(values, "none")
    assert found.differences["once"] == found.differences["failed"] == {}
    assert list(found.differences["small"]) == ["chained_fid"]
    assert found.notes == [
        "small has no interval of its difference from none in oracle FID: 1 seed has it in both, where it takes 2.",
        "once has no interval of its difference from none in chained FID: 1 seed has it in both, where it takes 2.",
        "once has no interval of its difference from none in oracle FID: no seeds have it in both, where it takes 2.",
        "failed has no interval of its difference from none: no seeds have it in both, where it takes 2.",
    ]


def test_a_cell_that_comes_later_does_not_move_the_others() -> None:
    before = compare(fids(none=NONE, small=SMALL, failed=[]), "none").differences["small"]["chained_fid"]
    after = compare(fids(none=NONE, small=SMALL, failed=LARGE), "none").differences["small"]["chained_fid"]
    assert (before.low, before.high, before.detectable) == (after.low, after.high, after.detectable)


def test_the_order_of_cells_does_not_matter() -> None:
    values = fids(none=NONE, small=SMALL, large=LARGE)
    turned = compare(dict(reversed(values.items())), "none")
    assert turned.differences == compare(values, "none").differences


def test_a_baseline_that_is_no_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no baseline 'nnoe' among the cells; cells are none, small"):
        compare(fids(none=NONE, small=SMALL), "nnoe")


def test_a_value_that_is_no_number_is_refused_rather_than_left_out() -> None:
    with pytest.raises(ValueError, match="is not a finite number"):
        compare(fids(none=NONE, small=[math.nan, 1.0, 2.0]), "none")


def test_cells_are_ranked_over_the_seeds_that_all_of_them_have() -> None:
    values = fids(a=[1.0, 2.0, 3.0], b=[1.0, 2.0, 3.0], few=[1.0, 2.0], none=[])
    del values["a"][0], values["b"][1]
    values["a"][3] = values["b"][3] = {"chained_fid": 4.0}
    assert ranking(values) == (["a", "b"], [2, 3], {"few": 0})
    assert ranking({"a": {}}) == ([], [], {})


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        # A cell that is ahead of the others, or got through a seed that took them, has that seed for nothing.
        ({"a": "01", "b": "01", "c": "01", "d": "012"}, ("abcd", [0, 1], {})),
        ({"a": "01", "b": "01", "c": "012", "d": "012"}, ("abcd", [0, 1], {})),
        # One that lacks a seed which the others have is passed over.
        ({"a": "012", "b": "012", "c": "012", "d": "02"}, ("abc", [0, 1, 2], {"d": 2})),
        # Equal in replicates: more cells, then the earliest seeds.
        ({"a": "012", "b": "012", "c": "01"}, ("abc", [0, 1], {})),
        ({"a": "01", "b": "12", "c": "02", "d": ""}, ("ac", [0], {"b": 0})),
        # Two cells, and half of all, must have them.
        ({"a": "012", "b": "", "c": ""}, ("", [], {})),
        ({"a": "0123456789", "b": "0", "c": "0", "d": ""}, ("abc", [0], {})),
        ({"a": "0", "b": "0", "c": "", "d": "", "e": ""}, ("", [], {})),
        ({"a": "0", "b": "1"}, ("", [], {})),
    ],
)
def test_seeds_and_cells_are_ranked_of_which_there_are_most_replicates(
    seeds: dict[str, str], expected: tuple[str, list[int], dict[str, int]]
) -> None:
    values: Table = {cell: {int(seed): {"chained_fid": 1.0} for seed in mine} for cell, mine in seeds.items()}
    assert ranking(values) == (list(expected[0]), *expected[1:])


# --- claims of equality


def claim(a: str, b: str, metric: Metric = "chained_fid", **margin: float) -> EqualClaim:
    return EqualClaim.model_validate({"cells": (a, b), "metric": metric, **margin})


class Said(NamedTuple):
    """A claim, the values it is of and what comes of it."""

    claim: EqualClaim
    values: Table
    sentence: str


SAID = [
    Said(
        claim("cut", "whole", margin=1.0),
        fids(cut=[10.0, 12.0, 11.0], whole=[10.1, 12.2, 11.0]),
        "cut and whole are equal in chained FID within ±1: the 90 % interval of whole minus cut, [-0.07, 0.27] over 3 "
        "seeds, lies inside.",
    ),
    Said(
        claim("cut", "whole", relative_margin=0.1),
        fids(cut=[10.0, 12.0, 11.0], whole=[10.1, 12.2, 14.0]),
        "cut and whole are not shown to be equal in chained FID within ±1.1 (10 % of 11.0): the 90 % interval of whole "
        "minus cut, [-1.7, 3.9] over 3 seeds, reaches beyond.",
    ),
    Said(
        claim("cut", "whole", "accuracy", margin=0.02),
        table("accuracy", cut=[0.8, 0.81, 0.82], whole=[0.7, 0.72, 0.72]),
        "cut and whole differ in accuracy by more than ±2 points: the 90 % interval of whole minus cut, [-10.6, -8.7] "
        "points over 3 seeds, lies outside.",
    ),
    Said(
        claim("cut", "whole", margin=1.0),
        fids(cut=[10.0, 12.0, 11.0], whole=[10.1]),
        "cut and whole are not shown to be equal in chained FID: 1 seed has it in both, where it takes 2.",
    ),
    Said(
        claim("cut", "whole", relative_margin=0.5),
        fids(cut=[10.0, 12.0, 11.0], whole=[]),
        "cut and whole are not shown to be equal in chained FID: no seeds have it in both, where it takes 2.",
    ),
    Said(
        claim("cut", "whole", "gap", relative_margin=0.1),
        table("gap", cut=[-1.0, 1.0], whole=[2.0, 3.0]),
        "cut and whole are not shown to be equal in gap: the mean of cut is 0, of which no share is a margin.",
    ),
    Said(
        claim("cut", "whole", margin=1.0),
        fids(cut=[10.0, 12.0, 11.0], whole=[10.5, 12.5, 11.5]),
        "cut and whole are not shown to be equal in chained FID within ±1: whole minus cut was 0.5 under each of 3 "
        "seeds; no spread was seen, so there is no interval.",
    ),
    Said(
        claim("cut", "whole", margin=1.0),
        fids(cut=[10.0, 12.0, 11.0], whole=[10.0, 12.0, 11.0]),
        "cut and whole are equal in chained FID within ±1: it was the same under all 3 seeds.",
    ),
]


@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_a_claim_of_equality_is_told_with_its_margin_and_interval(said: Said) -> None:
    [found] = equalities(said.values, [said.claim])
    assert found.sentence.replace("\N{NO-BREAK SPACE}", " ") == said.sentence
    assert found.equal == ("are equal" in said.sentence)
    assert (
        (found.low is None)
        == (found.high is None)
        == (found.p is None)
        == ("takes 2" in said.sentence or found.margin == 0 or "no spread" in said.sentence)
    )


def test_a_claim_is_tested_as_the_statistics_do_over_common_seeds_second_minus_first() -> None:
    values = fids(cut=[10.0, 12.0, 11.0], whole=[10.5, 12.1, 11.4])
    values["whole"][9] = {"chained_fid": 1000.0}
    [found] = equalities(values, [claim("cut", "whole", relative_margin=0.2)], confidence=0.9)
    expected = statistics.equivalence([10.5, 12.1, 11.4], [10.0, 12.0, 11.0], margin=0.2 * 11, confidence=0.9)
    assert (found.low, found.high, found.p, found.equal) == (expected.low, expected.high, expected.p, expected.equal)
    assert found.margin == pytest.approx(2.2)
    assert found.cells == ("cut", "whole")
    assert found.low is not None
    assert found.low + (found.high or 0) > 0


def test_a_relative_margin_of_a_negative_mean_is_a_distance() -> None:
    values = table("gap", a=[-10.0, -12.0, -11.0], b=[-10.1, -12.0, -11.1])
    [found] = equalities(values, [claim("a", "b", "gap", relative_margin=0.1)])
    assert (found.margin, found.equal) == (pytest.approx(1.1), True)


def test_what_is_not_significantly_different_is_not_therefore_equal() -> None:
    values = fids(a=[10.0, 14.0, 9.0], b=[12.0, 11.0, 13.0])
    assert (compare(values, "a").differences["b"]["chained_fid"].p or 0) > 0.5
    assert not equalities(values, [claim("a", "b", margin=1.0)])[0].equal
