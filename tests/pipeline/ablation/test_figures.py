"""The figures of an ablation: whole for one cell or many, one seed or ten, and drawn where their numbers say."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from pipeline.ablation.comparisons import Values
from pipeline.ablation.compute_figure import cheapest, compute_figure, computed
from pipeline.ablation.curves import during_figure, level_accuracy_figure, level_fid_figure, loss_figure
from pipeline.ablation.figures import equality_figure, forest_figure, gap_figure
from pipeline.ablation.findings import chosen, front_of
from pipeline.ablation.front_figure import pareto_figure, places
from pipeline.ablation.level_scores import across, curve_of, level_rows, oracle_curve, swept
from pipeline.ablation.metrics import mean, spread
from pipeline.ablation.parts import AblationReport, CellRow, Compute, Difference, Equality, Replicate, SweepPoint
from pipeline.ablation.wording import told_compute, told_levels, told_progress
from pipeline.report.search_parts import Kind

FIGURES = [
    forest_figure, equality_figure, gap_figure, pareto_figure, level_fid_figure, level_accuracy_figure, loss_figure,
    compute_figure,
]  # fmt: skip
Figure = Callable[[AblationReport], str]


def _texts(svg: str) -> list[str]:
    return [
        " ".join("".join(one.itertext()).split()) for one in ElementTree.fromstring(svg).iter() if "text" in one.tag
    ]


def _with_seeds(report: AblationReport, count: int) -> AblationReport:
    cells = [cell.model_copy(update={"replicates": cell.replicates[:count], "differences": {}})
             for cell in report.cells]  # fmt: skip
    return report.model_copy(update={"cells": cells, "seeds": report.seeds[:count]})


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_names_the_cells(figure: Figure, ablation: AblationReport) -> None:
    svg = figure(ablation)
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    texts = " ".join(_texts(svg))
    shown = {"equality_figure": ["truncated", "no-class"]}.get(figure.__name__, [])
    shown = shown or [cell.name for cell in (swept(ablation) if "level" in figure.__name__ else ablation.others)]
    assert all(name in texts for name in shown)
    assert figure(ablation) == svg


@pytest.mark.parametrize("figure", [one for one in FIGURES if one is not equality_figure])
def test_many_cells_and_seeds_are_drawn_too(figure: Figure, large_ablation: AblationReport) -> None:
    svg = figure(large_ablation)
    assert "noise-up-to-0.65-blurred" in " ".join(_texts(svg))
    assert len(svg) < 450_000


def test_fids_of_small_evaluations_are_drawn_and_told(ablation: AblationReport) -> None:
    first, *rest = ablation.base.replicates
    watched = first.model_copy(update={"during": [(100, 40.0), (200, 30.5)]})
    cells = [ablation.base.model_copy(update={"replicates": [watched, *rest]}), *ablation.others]
    report = ablation.model_copy(update={"cells": cells})
    texts = _texts(during_figure(report))
    assert {"none (baseline)", "FID", "step"} <= set(texts)
    assert "noise-small" not in texts  # which was not watched
    assert told_progress(report) == "last values none 30.5."


@pytest.mark.parametrize("figure", FIGURES)
def test_one_seed_and_nothing_at_all(figure: Figure, ablation: AblationReport, bare_ablation: AblationReport) -> None:
    svg = figure(_with_seeds(ablation, 1))
    assert (svg == "") == (figure is forest_figure)  # one seed gives no differences
    assert figure(bare_ablation) == ""
    assert during_figure(ablation) == ""


def test_a_curve_is_the_mean_and_spread_over_finished_seeds(ablation: AblationReport) -> None:
    cell = ablation.cell("noise-large")  # of three seeds one failed
    at = {level: (middle, wide) for level, middle, wide in curve_of(cell, "truncated", "chained_fid")}
    values = [
        point.chained_fid for one in cell.finished for point in one.sweep
        if point.level == 0.3 and point.kind == "truncated"
    ]  # fmt: skip
    assert len(values) == 2
    assert at[0.3] == (pytest.approx(mean(values)), pytest.approx(spread(values)))
    shared = {level for level, *_ in curve_of(cell, "truncated", "chained_fid")}
    assert 0.0 in shared  # the kinds are the same thing at s = 0, which was tried once


def test_the_spread_of_one_seed_is_unknown_rather_than_none(ablation: AblationReport) -> None:
    one = _with_seeds(ablation, 1)
    assert {wide for *_, wide in curve_of(one.cell("noise-small"), "truncated", "accuracy")} == {None}

    def bars(report: AblationReport) -> list[bool]:
        """Of every error bar whether anything is drawn of it."""
        panels = level_accuracy_figure(report).split('id="legend')[0]
        collections = re.findall(r'id="LineCollection_\d+">(.*?)</g>', panels, re.DOTALL)
        return [" d=" in path for collection in collections for path in re.findall("<path[^>]*>", collection)]

    assert len(bars(one)) == len(bars(ablation)) > 20
    assert not any(bars(one))
    assert any(bars(ablation))


def _point(kind: Kind, level: float, fid: float, oracle: float) -> SweepPoint:
    return SweepPoint(kind=kind, level=level, logsnr=0.0, ddpm_step=0.0, chained_fid=fid, oracle_fid=oracle)


def test_the_best_level_is_that_of_the_better_kind_and_the_oracle_has_none(ablation: AblationReport) -> None:
    sweep = [
        _point("truncated", 0.1, 10.0, 4.0), _point("non_truncated", 0.1, 12.0, 6.0),
        _point("truncated", 0.3, 11.0, 7.0), _point("non_truncated", 0.3, 5.0, 7.0),
    ]  # fmt: skip
    row = CellRow(name="one", settings={"x": 1}, replicates=[Replicate(seed=0, status="finished", sweep=sweep)])
    report = ablation.model_copy(update={"cells": [ablation.base, row]})
    assert told_levels(report, "chained_fid") == "best at s = 0.3, non-truncated, for one with 5.00."
    assert oracle_curve(row) == [(0.1, 5.0, None), (0.3, 7.0, None)]


def test_the_baseline_is_drawn_for_each_of_its_kinds(ablation: AblationReport) -> None:
    turned = ablation.model_copy(update={"baseline": "noise-small"})
    texts = _texts(level_fid_figure(turned))
    assert {"baseline, truncated", "baseline, non-truncated"} <= set(texts)
    assert "baseline" in _texts(level_fid_figure(ablation))  # which was scored at s = 0 alone


def test_cells_that_differ_in_level_and_kind_alone_are_one_panel(fixed_ablation: AblationReport) -> None:
    whole = across(fixed_ablation)
    assert whole is not None
    assert [cell.name for cell in level_rows(fixed_ablation)] == ["all cells"]
    clean = fixed_ablation.cell("clean")
    for kind in ("truncated", "non_truncated"):
        curve = {level: (middle, wide) for level, middle, wide in curve_of(whole, kind, "chained_fid")}
        for level, name in ((0.0, "clean"), (0.1, f"s0.1-{kind}"), (0.3, f"s0.3-{kind}")):
            cell = fixed_ablation.cell(name)
            assert curve[level] == (cell.mean("chained_fid"), cell.spread("chained_fid"))
        assert curve[0.0][0] == clean.mean("chained_fid")  # at s = 0 they are the same images
    assert len(whole.replicates) == 3
    texts = _texts(level_fid_figure(fixed_ablation))
    assert {"all cells", "truncated", "non-truncated", "oracle", "chosen"} <= set(texts)
    assert "baseline" not in texts
    assert " ".join(texts).count("step") == 1
    assert _texts(level_accuracy_figure(fixed_ablation))
    assert (
        told_levels(fixed_ablation, "accuracy")
        == "best at s = 0.3, non-truncated, for all cells with 84.0\N{NO-BREAK SPACE}%."
    )


def test_levels_that_are_not_fixed_or_not_alone_make_no_such_panel(fixed_ablation: AblationReport) -> None:
    searched = fixed_ablation.model_copy(update={"settings": {**fixed_ablation.settings, "search": {"samples": 8}}})
    more = fixed_ablation.cells[1].model_copy(update={"settings": {"stages.sr32.training.steps": 5}})
    else_too = fixed_ablation.model_copy(update={"cells": [fixed_ablation.cells[0], more, *fixed_ablation.cells[2:]]})
    lower = fixed_ablation.cells[1].model_copy(update={"settings": {"stages.sr16.sampling.level": 0.1}})
    below = fixed_ablation.model_copy(update={"cells": [fixed_ablation.cells[0], lower]})
    alone = fixed_ablation.model_copy(update={"cells": fixed_ablation.cells[1:3], "baseline": "s0.1-truncated"})
    for report in (searched, else_too, below, alone):
        assert across(report) is None
        assert level_fid_figure(report) == ""


def test_a_cell_scored_at_one_level_has_no_panel_of_its_own(ablation: AblationReport) -> None:
    assert [cell.name for cell in swept(ablation)] == ["noise-small", "noise-large", "truncated", "no-class"]


def _one_difference(ablation: AblationReport, **ends: float) -> AblationReport:
    """Only noise-small, with a chained FID that differs so."""
    found = Difference(mean=-1.0, error=0.1, p=0.01, n=3, **ends)
    cell = ablation.cell("noise-small").model_copy(update={"differences": {"chained_fid": found}})
    return ablation.model_copy(update={"cells": [ablation.base, cell], "equalities": [], "front": []})


def test_the_forest_tells_what_was_found_from_what_was_not(ablation: AblationReport) -> None:
    def filled(report: AblationReport) -> int:
        """How often the colour of "better" fills something."""
        return len(re.findall(r"fill: #0072b2", forest_figure(report)))

    found = _one_difference(ablation, low=-1.4, high=-0.6)
    cell = found.cells[1]
    open_ = cell.differences["chained_fid"].model_copy(update={"p": 0.2})
    unsure = found.model_copy(
        update={"cells": [ablation.base, cell.model_copy(update={"differences": {"chained_fid": open_}})]}
    )
    assert filled(found) > filled(unsure)


def test_the_front_has_every_cell_with_both_goals(ablation: AblationReport) -> None:
    assert [place.cell.name for place in places(ablation)] == [cell.name for cell in ablation.cells]
    assert [place.cell.name for place in places(ablation) if not place.ranked] == ["noise-large"]  # it lost a seed
    cells = [cell.model_copy(update={"replicates": cell.replicates[:2]}) for cell in ablation.cells]
    for number in (0, 1, 3):  # all have two seeds, of which one is common
        mine = ablation.cells[number].replicates
        cells[number] = cells[number].model_copy(update={"replicates": [mine[0], mine[2]]})
    apart = ablation.model_copy(update={"cells": cells})
    assert [(place.fid, place.ranked) for place in places(apart)] == [
        (cell.values("chained_fid")[0], True) for cell in cells
    ]
    lost = ablation.cells[1].model_copy(update={"replicates": []})
    fewer = ablation.model_copy(update={"cells": [ablation.cells[0], lost]})
    assert pareto_figure(fewer) == ""  # one point is no comparison


def test_the_front_of_the_made_up_report_is_that_of_its_values(ablation: AblationReport) -> None:
    values: Values = {
        cell.name: {
            one.seed: {metric: found for metric in ablation.metrics if (found := one.value(metric)) is not None}
            for one in cell.finished
        }
        for cell in ablation.cells
    }
    assert ablation.front == front_of(values)
    assert chosen(values).cell == ablation.chosen


def test_names_on_the_front_do_not_cover_each_other(ablation: AblationReport) -> None:
    """Eight cells that lie close together."""
    base = ablation.cells[0]

    def near(number: int) -> CellRow:
        rows = []
        for one in base.replicates:
            assert one.chained is not None
            shifted = one.chained.model_copy(update={"fid": 18 + 0.05 * number, "accuracy": 0.8 + 0.001 * (number % 3)})
            rows.append(one.model_copy(update={"chained": shifted}))
        return base.model_copy(update={"name": f"cell-number-{number}", "replicates": rows, "differences": {}})

    cells = [near(number) for number in range(8)]
    update = {"cells": cells, "baseline": cells[0].name, "front": [], "chosen": None, "equalities": []}
    svg = pareto_figure(ablation.model_copy(update=update))
    at = [
        (float(x), float(y))
        for x, y, _ in re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>(cell-number-\d)', svg)
    ] or [
        (float(x), float(y))
        for x, y, _ in re.findall(r'translate\(([\d.]+) ([\d.]+)\)[^>]*>(cell-number-\d)', svg)
    ]  # fmt: skip
    assert len(at) == 8
    for number, (x, y) in enumerate(at):
        assert all(abs(x - other) > 50 or abs(y - high) > 7 for other, high in at[:number])


def test_a_claim_without_a_margin_or_an_interval_is_not_drawn(ablation: AblationReport) -> None:
    claim = Equality(cells=("none", "blur"), metric="gap", margin=0.0, low=None, high=None, p=None, equal=False)
    assert equality_figure(ablation.model_copy(update={"equalities": [claim]})) == ""


def _computing(ablation: AblationReport, gflops: dict[str, float]) -> AblationReport:
    """The report with other FLOPs; cells that are not named compute nothing that is known."""
    cells = []
    for cell in ablation.cells:
        gflop = gflops.get(cell.name)
        compute = None if gflop is None else Compute(parameters=1, drawn_gflop=gflop, trained_pflop=1.0)
        cells.append(cell.model_copy(
            update={"replicates": [one.model_copy(update={"compute": compute}) for one in cell.replicates]}
        ))  # fmt: skip
    return ablation.model_copy(update={"cells": cells})


def test_a_cell_that_another_is_cheaper_and_better_than_is_not_among_the_cheapest(ablation: AblationReport) -> None:
    by_fid = sorted((cell for cell in ablation.cells if cell.finished), key=lambda cell: cell.mean("chained_fid") or 0)
    best, second, third = (cell.name for cell in by_fid[:3])
    report = _computing(ablation, {best: 2.0, second: 1.0, third: 3.0})
    assert cheapest(report) == [second, best]
    assert {cell.name for cell, *_ in computed(report)} == {best, second, third}
    assert f"None is both cheaper and better than {second} and {best}." in told_compute(report)


def test_where_all_cells_compute_as_much_there_is_nothing_to_draw(ablation: AblationReport) -> None:
    report = _computing(ablation, {cell.name: 2.0 for cell in ablation.cells})
    assert compute_figure(report) == ""
