"""The figures of an ablation: whole for one cell or many, one seed or ten, and drawn where their numbers say."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from pipeline.ablation.curves import (
    curve_of,
    during_figure,
    level_accuracy_figure,
    level_fid_figure,
    loss_figure,
    swept,
)
from pipeline.ablation.figures import equality_figure, forest_figure, gap_figure
from pipeline.ablation.front_figure import pareto_figure, places
from pipeline.ablation.metrics import mean, spread
from pipeline.ablation.parts import AblationReport, CellRow, Difference, Equality

FIGURES = [
    forest_figure, equality_figure, gap_figure, pareto_figure, level_fid_figure, level_accuracy_figure, loss_figure,
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
    lost = ablation.cells[1].model_copy(update={"replicates": []})
    fewer = ablation.model_copy(update={"cells": [ablation.cells[0], lost]})
    assert pareto_figure(fewer) == ""  # one point is no comparison


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
    claim = Equality(cells=("none", "blur"), metric="gap", margin=None, low=None, high=None, p=None, equal=False)
    assert equality_figure(ablation.model_copy(update={"equalities": [claim]})) == ""
