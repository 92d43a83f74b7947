"""What an ablation found is told with direction and interval; what it did not find, with what it could have seen."""

from __future__ import annotations

import pytest

from pipeline.ablation.comparisons import compare
from pipeline.ablation.findings import chosen, front_of, verdicts
from pipeline.ablation.spec import Metric

Table = dict[str, dict[int, dict[Metric, float]]]


def table(**cells: list[tuple[float, float]]) -> Table:
    """Cells of (chained FID, accuracy) under seeds 0, 1, ..."""
    return {
        cell: {seed: {"chained_fid": fid, "accuracy": share} for seed, (fid, share) in enumerate(found)}
        for cell, found in cells.items()
    }


def fids(**cells: list[float]) -> Table:
    return {
        cell: {seed: {"chained_fid": fid} for seed, fid in enumerate(found)} for cell, found in cells.items()
    }  # fmt: skip


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def told(values: Table) -> list[str]:
    return [plain(sentence) for sentence in verdicts(compare(values, "none"))]


NONE, SMALL, LARGE = [18.0, 19.5, 17.2], [14.1, 15.4, 13.2], [18.3, 19.2, 17.9]


def test_a_find_has_a_direction_and_an_interval_and_no_find_what_could_have_been_seen() -> None:
    assert told(fids(none=NONE, small=SMALL, large=LARGE)) == [
        "small has a lower chained FID than none, by 4, which is better: the simultaneous 95 % interval of the "
        "difference is [-4.36, -3.64] over 3 seeds (Holm-adjusted p < 0.001).",
        "No difference from none in chained FID was found, which is no sign of equality, for large [-1.6, 2.0] over 3 "
        "seeds, where 2.33 or more would have been found 80 % of the time (were the true spread what it was here).",
    ]


def test_whether_higher_is_better_depends_on_the_metric() -> None:
    values = table(
        none=[(10.0, 0.80), (11.0, 0.81), (12.0, 0.82)],
        worse=[(20.0, 0.60), (21.1, 0.61), (22.0, 0.622)],
        better=[(5.0, 0.90), (6.1, 0.91), (7.0, 0.922)],
    )
    found = told(values)
    assert [sentence.split(":")[0] for sentence in found] == [
        "worse has a higher chained FID than none, by 10, which is worse",
        "better has a lower chained FID than none, by 4.97, which is better",
        "worse has a lower accuracy than none, by 19.9 points, which is worse",
        "better has a higher accuracy than none, by 10.1 points, which is better",
    ]
    assert "[-20.35, -19.52] points over" in found[2]


def test_what_came_out_the_same_under_every_seed_is_told_so() -> None:
    assert told(fids(none=NONE, same=NONE)) == ["same had the chained FID of none under every seed."]


def test_a_difference_without_any_spread_is_told_so_and_is_no_find() -> None:
    assert told(fids(none=NONE, less=[value - 4 for value in NONE])) == [
        "less has a lower chained FID than none, by 4, the same under each of 3 seeds: no spread was seen, so there is "
        "no interval, and it does not count as found."
    ]


def test_a_find_whose_interval_reaches_across_zero_is_told_so() -> None:
    """The one way in which Holm's decision and the interval may differ: a later step is at a larger level."""
    values = fids(none=[0.0] * 3, clear=[100.0, 100.1, 100.2], less=[1.0, 1.4, 0.7])
    found = compare(values, "none").differences["less"]["chained_fid"]
    assert found.p is not None
    assert found.low is not None
    assert found.p <= 0.05
    assert found.low <= 0
    assert told(values)[1].endswith("; that interval has 0 in it, so that there is a difference is all that was found.")


def test_where_nothing_can_be_compared_that_is_all_there_is_to_say() -> None:
    assert told(fids(none=NONE, other=[1.0])) == ["No cell can be compared with none yet."]


# --- the chosen cell


def test_the_lowest_mean_fid_is_chosen_and_the_next_best_is_told_with_its_interval() -> None:
    found = chosen(fids(none=NONE, small=SMALL, large=LARGE))
    assert found.cell == "small"
    assert plain(found.why) == (
        "small has the lowest mean chained FID of 3 cells, 14.2 over 3 seeds. The next best, none, is 4 above it, and "
        "the 95 % paired interval of that difference (not corrected for picking these two by their means), "
        "[3.75, 4.25], leaves 0 out."
    )
    assert "has 0 in it: these seeds do not tell the two apart." in chosen(fids(a=NONE, b=LARGE)).why


def test_a_cell_that_lacks_seeds_is_passed_over() -> None:
    found = chosen(fids(none=NONE, small=SMALL, large=LARGE, lucky=[1.0, 2.0]))
    assert found.cell == "small"
    assert found.why.endswith("Passed over, here and on the front, for seeds that they lack: lucky (has 2 of 3).")


def test_a_cell_that_alone_got_through_a_seed_is_not_chosen_for_it() -> None:
    """As where the disk fills in the last seed: the worst cell came to its score, no other did."""
    cells = {"none": [18.0, 19.5], "small": [14.1, 15.4], "large": [18.3, 19.2], "worst": [40.0, 41.0, 42.0]}
    values = fids(**cells)
    found = chosen(values)
    assert found.cell == "small"
    assert "small has the lowest mean chained FID of 4 cells, 14.8 over 2 seeds that all of them have." in found.why
    assert "Passed over" not in found.why
    for one in values.values():
        one[0]["accuracy"] = one[1]["accuracy"] = 0.5
    assert front_of(values) == ["small"]


def test_cells_that_lack_different_seeds_are_ranked_by_those_that_all_have() -> None:
    """Seed 2 is a bad one, which a lacks, and seed 0 a good one, which b lacks: by all that each has, a is lower."""
    values = table(a=[(10.0, 0.5), (12.0, 0.5)], b=[(0.0, 0.0), (11.0, 0.6), (40.0, 0.4)])
    del values["b"][0]
    found = chosen(values)
    assert found.cell == "b"
    assert plain(found.why).startswith(
        "b has the lowest mean chained FID of 2 cells, 11.0 over 1 seed that all of them have."
    )
    assert front_of(values) == ["b"]


def test_without_seeds_that_enough_cells_have_nothing_is_chosen() -> None:
    values = fids(a=[10.0], b=[0.0, 11.0])
    del values["b"][0]
    told = "Nothing is chosen: no seed has a chained FID in two cells and in half of all 2."
    assert chosen(values) == (None, told)
    assert front_of(values) == []
    few = table(a=[(1.0, 0.5)], b=[(2.0, 0.6)], c=[], d=[], e=[])
    assert chosen(few) == (None, told.replace("all 2", "all 5"))
    assert front_of(few) == []


def test_the_next_best_at_the_same_distance_under_every_seed_is_told_without_an_interval() -> None:
    assert chosen(fids(a=[1.0, 2.0], b=[2.0, 3.0])).why.endswith(
        "The next best, b, is 1 above it, the same under each of 2 seeds: no spread was seen, so there is no interval."
    )


def test_fid_and_accuracy_that_disagree_are_shown_as_a_front() -> None:
    values = table(low=[(10.0, 0.5), (11.0, 0.5)], sure=[(12.0, 0.75), (13.0, 0.75)], poor=[(14.0, 0.4), (15.0, 0.4)])
    found = chosen(values)
    assert found.cell == "low"
    assert plain(found.why).endswith(
        "It is on the Pareto front of FID and accuracy (50.0 %), with sure (accuracy 75.0 %, FID 12.5)."
    )
    values = table(low=[(10.0, 0.5), (11.0, 0.5)], poor=[(14.0, 0.4), (15.0, 0.4)])
    assert plain(chosen(values).why).endswith("No cell has a higher accuracy (50.0 %): FID and accuracy agree.")


def test_a_cell_that_lacks_seeds_or_their_accuracy_is_on_no_front() -> None:
    values = table(low=[(10.0, 0.5), (11.0, 0.5)], lucky=[(9.0, 0.75)], part=[(12.0, 0.9), (13.0, 0.9)])
    del values["part"][1]["accuracy"]
    assert chosen(values).cell == "low"
    assert front_of(values) == ["low"]
    values["part"][1]["accuracy"] = 0.9
    assert front_of(values) == ["low", "part"]


def test_of_equal_fids_the_more_accurate_is_chosen_then_the_first() -> None:
    assert chosen(table(a=[(10.0, 0.5)], b=[(10.0, 0.6)])).cell == "b"
    assert chosen(table(a=[(10.0, 0.5)], b=[(10.0, 0.5)])).cell == "a"


def test_of_a_single_seed_a_cell_is_chosen_without_an_interval_and_a_single_cell_is_not() -> None:
    single = "Nothing is chosen: one cell of 2 has a chained FID, and a choice takes two."
    assert chosen(fids(only=[3.0], failed=[])) == (None, single)
    assert (
        "The next best is b; with 1 seed in common nothing tells the two apart." in chosen(fids(a=[1.0], b=[2.0])).why
    )


@pytest.mark.parametrize("values", [{"a": {}, "b": {}}, {"a": {0: {"accuracy": 0.5}}, "b": {}}])
def test_without_any_chained_fid_nothing_is_chosen(values: Table) -> None:
    assert chosen(values) == (None, "Nothing is chosen: no cell of 2 has a chained FID, and a choice takes two.")
