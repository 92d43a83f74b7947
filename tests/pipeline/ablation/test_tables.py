"""The tables of an ablation's report, as words."""

from __future__ import annotations

import pytest

from pipeline.ablation.parts import AblationReport, Difference, Replicate
from pipeline.ablation.settings_table import UNKNOWN, settings_table
from pipeline.ablation.tables import cell_tables, cost_rows, failures, level_words, signed, stage_table, sweep_rows
from pipeline.report.scores import Scores


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [
        (-2.1349, 0.4, "−2.13"),
        (0.04, 0.012, "+0.040"),
        (-0.0001, 0.5, "0.00"),
        (12.3, 25.0, "+12"),
        (1.5, 0.0, "+1.50"),
    ],
)
def test_differences_have_a_sign_and_the_digits_that_their_width_allows(value: float, width: float, text: str) -> None:
    assert signed(value, width) == text


def test_further_metrics_have_a_table_of_their_own(ablation: AblationReport) -> None:
    more = ablation.model_copy(update={"metrics": [*ablation.metrics, "recall"]})
    first, second = cell_tables(more)
    assert (first.metrics, second.metrics) == (ablation.metrics, ["recall"])
    assert [row.cell.name for row in first.rows] == [cell.name for cell in ablation.cells]
    assert second.rows[0].metrics[0].value.endswith("%")


def test_failures_are_told_with_their_errors(ablation: AblationReport) -> None:
    (lost,) = failures(ablation)
    assert (lost.cell, lost.seed) == ("noise-large", 2)
    assert "not finite" in lost.error
    assert level_words(ablation.cell("noise-large")) == "s = 0.1, non-truncated"
    assert level_words(ablation.cell("none")) == "s = 0"


def test_what_is_still_to_come_is_no_failure(ablation: AblationReport) -> None:
    waiting = Replicate(seed=2, status="missing")
    cell = ablation.others[0]
    cell = cell.model_copy(update={"replicates": [*cell.replicates[:2], waiting]})
    report = ablation.model_copy(update={"cells": [ablation.base, cell], "front": [], "equalities": []})
    assert failures(report) == []
    assert (len(cell.finished), cell.failed, cell.missing) == (2, [], [waiting])
    assert list(cell.values("chained_fid")) == [0, 1]


def test_a_difference_of_fewer_seeds_says_how_many_and_one_without_spread_that_it_has_no_interval(
    ablation: AblationReport,
) -> None:
    found = Difference(mean=-1.5, error=0.1, low=-2.0, high=-1.0, p=0.01, detectable=0.4, n=2)
    flat = Difference(mean=-1.5, error=0.0, low=None, high=None, p=None, n=3)
    cell = ablation.others[0].model_copy(update={"differences": {"chained_fid": found, "gap": flat}})
    report = ablation.model_copy(update={"cells": [ablation.base, cell], "front": [], "equalities": []})
    short, none, gap, _ = cell_tables(report)[0].rows[1].metrics
    assert short.difference is not None
    assert (short.difference.seeds, short.difference.flat, short.difference.way) == ("over 2 seeds", False, "better")
    assert none.difference is None
    assert gap.difference is not None
    assert gap.difference == ("−1.5", "", "", "", "", "", True)


def test_a_finished_seed_without_the_metric_is_marked(ablation: AblationReport) -> None:
    first, *rest = ablation.base.replicates
    assert first.chained is not None
    without = first.model_copy(update={"chained": Scores.model_validate({"fid": float("inf"), "accuracy": 0.8})})
    base = ablation.base.model_copy(update={"replicates": [without, *rest]})
    report = ablation.model_copy(update={"cells": [base, *ablation.others]})
    fid, oracle, _, accuracy = cell_tables(report)[0].rows[0].metrics
    assert [one.seeds for one in (fid, oracle, accuracy)] == ["over 2 seeds", "", ""]


def test_the_gap_stands_at_every_stage(ablation: AblationReport) -> None:
    table = stage_table(ablation)
    assert table.stages == {"base8": 8, "sr16": 16, "sr32": 32}
    rows = dict(table.rows)
    assert rows["none"][0].gap == "–"  # the base has no oracle
    assert rows["none"][1].gap == "4.50"
    assert rows["none"][2].gap.startswith("13.91")


def test_curves_are_told_as_numbers_too(ablation: AblationReport) -> None:
    rows = [row for row in sweep_rows(ablation) if row.cell == "no-class"]
    assert [(row.level, row.kind) for row in rows[:3]] == [
        (0.0, "either"), (0.1, "non-truncated"), (0.1, "truncated"),
    ]  # fmt: skip
    assert rows[1].step == 100.0
    assert "±" in rows[1].chained
    assert rows[1].accuracy.endswith("%")


def test_cells_at_fixed_levels_are_told_as_numbers_too(fixed_ablation: AblationReport) -> None:
    rows = sweep_rows(fixed_ablation)
    assert [(row.cell, row.level, row.kind) for row in rows] == [
        ("all cells", 0.0, "either"), ("all cells", 0.1, "non-truncated"), ("all cells", 0.1, "truncated"),
        ("all cells", 0.3, "non-truncated"), ("all cells", 0.3, "truncated"),
    ]  # fmt: skip
    assert (rows[1].logsnr, rows[1].step) == (7.0, 100.0)
    assert rows[1].chained.replace("\N{NO-BREAK SPACE}", " ") == "18.20 ± 0.20"
    assert rows[1].oracle == "4.10"


def test_costs_have_the_range_of_start_ups(ablation: AblationReport) -> None:
    first = cost_rows(ablation)[0]
    starts = [one.start_seconds or 0.0 for one in ablation.base.replicates]
    assert first.starts == f"{min(starts):.1f}–{max(starts):.1f} s"
    assert first.training == "3 min 39 s"


def test_settings_are_shown_beside_what_was_declared(ablation: AblationReport) -> None:
    table = settings_table(ablation)
    assert [column.name for column in table.columns] == ["kind", "max_level", "augmentation", "sigma", "labels"]
    assert [column.declared for column in table.columns] == ["noise", "0.3", "non_truncated", UNKNOWN, "true"]
    rows = dict(table.rows)
    assert rows["no-class"] == [
        ("noise", False),
        ("0.3", False),
        ("non_truncated", False),
        (UNKNOWN, False),
        ("false", True),
    ]
