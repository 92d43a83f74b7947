"""The figures of an ablation that compare cells: differences from the baseline, claims of equality, gaps.

As in ``pipeline.report.figures``: stand-alone SVG documents, or an empty string when there is nothing to show. Every
distinction of colour is one of markers or dashes too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.ablation.metrics import METRICS, mean
from pipeline.ablation.parts import AblationReport, CellRow, Difference
from pipeline.ablation.spec import Metric
from pipeline.report.plotting import BLUE, GREEN, INK, ORANGE, QUIET, bare, drawing, fit_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALE = "#c9ced4"
_WIDTH = 10.4  # inches, of the page
_GAP = 6 * "\N{NO-BREAK SPACE}"
_AIMS = {True: f"← better{_GAP}worse →", False: f"← worse{_GAP}better →"}
_BETTER, _WORSE, _OPEN = (BLUE, "o", "better"), (ORANGE, "s", "worse"), (QUIET, "D", "not found")


def forest_figure(report: AblationReport) -> str:
    """Each cell minus the baseline with its simultaneous interval, a panel per metric; the dots are single seeds.

    Margins of equality to the baseline are shaded. Intervals that leave the panel end in an arrow.
    """
    metrics = [metric for metric in report.metrics if any(metric in cell.differences for cell in report.others)]
    if not metrics:
        return ""
    cells = report.others
    with drawing(_WIDTH, 1.35 + 0.33 * len(cells)) as (figure, out):
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for plot, metric in zip(panels, metrics, strict=True):
            reach = _reach([cell.differences[metric] for cell in cells if metric in cell.differences])
            plot.set_xlim(-reach * 1.06, reach * 1.06)
            plot.axvline(0, color=INK, lw=1.2, zorder=2)
            for row, cell in enumerate(cells):
                _shade_margins(plot, report, cell.name, metric, row)
                _forest_row(plot, report, cell, metric, row, reach)
            plot.set_title(METRICS[metric].name)
            plot.set_xlabel(_AIMS[METRICS[metric].lower], color=QUIET)
            if METRICS[metric].share:
                plot.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}".replace("-", "−"))
            plot.locator_params(axis="x", nbins=5)
            bare(plot, grid="x")
            plot.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(cells)), [cell.name for cell in cells])
        panels[0].set_ylim(len(cells) - 0.4, -0.6)
        for colour, marker, name in (_BETTER, _WORSE, _OPEN):
            face = "white" if name == _OPEN[2] else colour
            panels[0].plot([], [], marker, color=colour, mfc=face, ms=7, label=name)
        panels[0].plot([], [], "|", color=QUIET, ms=7, label="one seed")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, handletextpad=0.3)
    return out[0]


def _reach(found: Sequence[Difference]) -> float:
    """Half the width of a panel: all means fit, and all intervals but those that would dwarf the others."""
    ends = sorted(max(abs(one.low or one.mean), abs(one.high or one.mean)) for one in found)
    usual = ends[len(ends) // 2]
    return max(1.25 * max(abs(one.mean) for one in found), min(ends[-1], 2.5 * usual)) or 1e-6


def _shade_margins(plot: Axes, report: AblationReport, cell: str, metric: Metric, row: int) -> None:
    for claim in report.equalities:
        if claim.metric == metric and claim.margin and set(claim.cells) == {cell, report.baseline}:
            plot.fill_betweenx([row - 0.42, row + 0.42], -claim.margin, claim.margin, color="#dcebd9", lw=0, zorder=1)


def _forest_row(plot: Axes, report: AblationReport, cell: CellRow, metric: Metric, row: int, reach: float) -> None:
    if (found := cell.differences.get(metric)) is None:
        plot.annotate("no two seeds in common", (0, row), (6, 0), textcoords="offset points", va="center",
                      color=QUIET, fontsize=8.5)  # fmt: skip
        return
    colour, marker, _ = _style(report.found(found), found.mean, metric)
    low, high = found.low, found.high
    if low is not None and high is not None:
        plot.plot([max(low, -reach), min(high, reach)], [row, row], color=colour, lw=2.2, zorder=3)
        for end, sign in ((low, -1), (high, 1)):
            if end * sign > reach:
                plot.plot([sign * reach], [row], "<" if sign < 0 else ">", color=colour, ms=6, zorder=3)
    face = colour if report.found(found) else "white"
    plot.plot([found.mean], [row], marker, color=colour, mfc=face, ms=7.5, mew=1.6, zorder=5)
    mine, theirs = cell.values(metric), report.base.values(metric)
    apart = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    inside = [value for value in apart if abs(value) <= reach * 1.06]
    plot.plot(inside, [row + 0.28] * len(inside), "|", color=QUIET, ms=6, mew=1.1, zorder=4)


def _style(found: bool, difference: float, metric: Metric) -> tuple[str, str, str]:
    if not found:
        return _OPEN
    return _BETTER if (difference < 0) == METRICS[metric].lower else _WORSE


def equality_figure(report: AblationReport) -> str:
    """The interval of every claim of equality in units of its margin: shown where it lies inside -1 to 1."""
    shown = [
        (claim, claim.low / claim.margin, claim.high / claim.margin)
        for claim in report.equalities
        if claim.margin and claim.low is not None and claim.high is not None
    ]
    if not shown:
        return ""
    with drawing(7.4, 0.95 + 0.42 * len(shown)) as (figure, out):
        plot = figure.add_subplot()
        plot.axvspan(-1, 1, color="#dcebd9", lw=0)
        plot.axvline(0, color=INK, lw=1)
        for row, (claim, low, high) in enumerate(shown):
            colour, marker = (GREEN, "o") if claim.equal else (ORANGE, "X")
            plot.plot([low, high], [row, row], marker="|", color=colour, lw=2.4, ms=9, mew=2)
            plot.plot([(low + high) / 2], [row], marker, color=colour, ms=8)
        names = [f"{a} = {b}, {METRICS[claim.metric].name}" for claim, *_ in shown for a, b in [claim.cells]]
        plot.set_yticks(range(len(shown)), names)
        plot.set_ylim(len(shown) - 0.5, -0.5)
        wide = max(1.5, *(1.08 * max(abs(low), abs(high)) for _, low, high in shown))
        plot.set_xlim(-wide, wide)
        plot.set_xlabel("difference, in margins")
        bare(plot, grid="x")
        plot.tick_params(axis="y", length=0)
    return out[0]


def gap_figure(report: AblationReport) -> str:
    """Oracle and chained FID of every cell, a panel per stage; small marks are single seeds."""
    sizes = {row.stage: row.size for cell in report.cells for one in cell.replicates for row in one.stages}
    shown = {stage: size for stage, size in sizes.items() if any(_fids(cell, stage) for cell in report.cells)}
    if not shown:
        return ""
    cells = report.cells
    with drawing(_WIDTH if len(shown) > 1 else 7.4, 1.3 + 0.33 * len(cells)) as (figure, out):
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for plot, (stage, size) in zip(panels, shown.items(), strict=True):
            drawn: list[float] = []
            for row, cell in enumerate(cells):
                drawn += _gap_row(plot, _fids(cell, stage), row)
            plot.set(title=f"{stage}, {size} px", xlabel="FID (lower is better)")
            if drawn and max(drawn) > 30 * min(drawn):
                fit_axis(plot, drawn, "x")
            else:
                plot.set_xlim(0, 1.06 * max(drawn, default=1.0))  # the gap is a length
            bare(plot, grid="x")
            plot.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(cells)), _marked(report))
        panels[0].set_ylim(len(cells) - 0.4, -0.6)
        panels[0].plot([], [], "^", color=BLUE, ms=7.5, label="oracle")
        panels[0].plot([], [], "o", color=ORANGE, ms=7.5, label="chained")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, handletextpad=0.2)
    return out[0]


def _fids(cell: CellRow, stage: str) -> dict[str, list[float]]:
    """The FIDs of a stage over seeds, by whose low-res images it was given; empty without any."""
    rows = [row for one in cell.replicates for row in one.stages if row.stage == stage]
    found = {
        "oracle": [row.oracle.fid for row in rows if row.oracle and row.oracle.fid is not None],
        "chained": [row.chained.fid for row in rows if row.chained and row.chained.fid is not None],
    }
    return {kind: values for kind, values in found.items() if values}


def _gap_row(plot: Axes, fids: Mapping[str, Sequence[float]], row: int) -> list[float]:
    middles = [found for values in fids.values() if (found := mean(values)) is not None]
    plot.plot(middles, [row] * len(middles), color=PALE, lw=3, zorder=1)
    for kind, (colour, marker) in {"oracle": (BLUE, "^"), "chained": (ORANGE, "o")}.items():
        values = list(fids.get(kind, []))
        if values:
            plot.plot(values, [row] * len(values), marker, color=colour, ms=4, alpha=0.45, mew=0, zorder=2)
            plot.plot([mean(values) or 0.0], [row], marker, color=colour, ms=8, zorder=3)
    return [value for values in fids.values() for value in values]


def _marked(report: AblationReport) -> list[str]:
    return [f"{cell.name} (baseline)" if cell.name == report.baseline else cell.name for cell in report.cells]
