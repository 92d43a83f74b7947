"""The curves of an ablation, on the same axes: scores against the augmentation level, a panel per cell (or one, where
the cells themselves are the levels), losses and FID during training. As in ``pipeline.report.figures``: stand-alone SVG
documents, or an empty string for nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.ablation.figures import PALE
from pipeline.ablation.level_scores import Curve, Figures, curve_of, kinds_of, level_rows, oracle_curve, points_of
from pipeline.ablation.parts import AblationReport, CellRow, Replicate, SweepPoint
from pipeline.report.plotting import BLUE, INK, ORANGE, QUIET, bare, drawing, finite, fit_axis, running_mean, thinned
from pipeline.report.search_parts import KIND_NAMES, Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS, _WIDTH = 3, 10.4
KIND_STYLES: dict[Kind, tuple[str, str]] = {"truncated": (BLUE, "o"), "non_truncated": (ORANGE, "s")}


def level_fid_figure(report: AblationReport) -> str:
    """Chained FID per kind and oracle FID against s with their spread over seeds; pale: the other cells' curves."""
    return _level_figure(report, "chained_fid", "FID", oracle=True)


def level_accuracy_figure(report: AblationReport) -> str:
    """Accuracy per kind against s with its spread over seeds; pale: the other cells' curves."""
    return _level_figure(report, "accuracy", "accuracy", oracle=False)


def _level_figure(report: AblationReport, figure: Figures, label: str, *, oracle: bool) -> str:
    rows = {cell.name: _by_kind(cell, figure) for cell in level_rows(report)}
    cells = [cell for cell in level_rows(report) if rows[cell.name]]
    if not cells:
        return ""
    base = _by_kind(report.base, figure)

    def draw(plot: Axes, cell: CellRow) -> None:
        for name, curves in rows.items():
            for curve in curves.values() if name != cell.name else ():
                plot.plot([at[0] for at in curve], [at[1] for at in curve], color=PALE, lw=0.9, zorder=1)
        for kind, curve in base.items() if cell.name != report.baseline else ():
            name = "baseline" if len(base) == 1 else f"baseline, {KIND_NAMES[kind]}"
            _errors(plot, curve, INK, KIND_STYLES[kind][1] if len(base) > 1 else "D", name, mfc="white", lw=1.1,
                    dashes=(1, 2))  # fmt: skip
        for kind, curve in rows[cell.name].items():
            colour, marker = KIND_STYLES[kind]
            dashes = {"dashes": (1.2, 1.2)} if kind == "non_truncated" else {}
            _errors(plot, curve, colour, marker, KIND_NAMES[kind], **dashes)
        if oracle:
            _errors(plot, oracle_curve(cell), INK, "^", "oracle", mfc="white", dashes=(4, 1.6))
        _ring(plot, cell, rows[cell.name])

    every = [point for cell in cells for point in points_of(cell)]
    values = [at[1] for curves in (*rows.values(), base) for curve in curves.values() for at in curve]
    values += [at[1] for cell in cells for at in oracle_curve(cell)] if oracle else []
    with _panels(report.baseline, cells, draw, label, extra=0.6) as (panels, out):
        for plot in panels:
            fit_axis(plot, values, "y")
            if not oracle:
                plot.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        _level_axes(panels, every)
    return out[0]


def _by_kind(cell: CellRow, figure: Figures) -> dict[Kind, Curve]:
    """The curves that there are."""
    curves = {kind: curve_of(cell, kind, figure) for kind in kinds_of(cell)}
    return {kind: curve for kind, curve in curves.items() if curve}


def _errors(plot: Axes, curve: Curve, colour: str, marker: str, name: str, **style: Any) -> None:
    if not curve:
        return
    levels, middles, wide = zip(*curve, strict=True)
    spreads = [math.nan if one is None else one for one in wide]  # no bar of one seed, rather than one of no length
    look = {"ms": 5, "lw": 1.7, "elinewidth": 1.1, "capsize": 2.5, "zorder": 3, **style}
    plot.errorbar(levels, middles, yerr=spreads, color=colour, marker=marker, label=name, **look)


def _ring(plot: Axes, cell: CellRow, curves: Mapping[Kind, Curve]) -> None:
    """Around the level that most seeds chose."""
    chosen = [(point.kind, point.level) for point in points_of(cell) if point.chosen]
    if not chosen:
        return
    kind, level = max(sorted(set(chosen)), key=chosen.count)
    curve = curves.get(kind) or next(iter(curves.values()), [])  # of s = 0 alone any has it
    for at, middle, _ in curve:
        if at == level:
            plot.plot([at], [middle], "o", ms=14, mfc="none", mec=INK, mew=1.4, label="chosen", zorder=5)


def _level_axes(panels: Sequence[Axes], points: Iterable[SweepPoint]) -> None:
    """Ticks at the levels that were tried, as many as fit, each with its log-SNR and DDPM step where they are known."""
    places = sorted({point.level: (point.logsnr, point.ddpm_step) for point in points}.items())
    low, high = places[0][0], places[-1][0]
    kept = [places[0]]
    for place in places[1:]:
        if place[0] - kept[-1][0] >= 0.15 * (high - low):
            kept.append(place)
    known = [(place, name, form) for place, (name, form) in enumerate((("log-SNR", "{:+.1f}"), ("step", "{:.0f}")))
             if any(facts[place] is not None for _, facts in kept)]  # fmt: skip
    labels = ["\n".join([f"{level:.3g}", *("" if facts[place] is None else form.format(facts[place])
                                           for place, _, form in known)]) for level, facts in kept]  # fmt: skip
    margin = 0.07 * (high - low)
    for number, plot in enumerate(panels):
        plot.set_xlim(low - margin, high + margin)
        plot.set_xticks([place[0] for place in kept], labels, linespacing=1.3, fontsize=8.5)
        if number % _COLUMNS == 0:
            names = "\n".join(["s", *(name for _, name, _ in known)])
            anchor: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
            plot.annotate(names, (0, 0), (-6, -7), ha="right", va="top", color=QUIET, fontsize=8.5,
                          linespacing=1.3, **anchor)  # fmt: skip


def loss_figure(report: AblationReport) -> str:
    """Training loss of the last stage, a panel per cell: mean over seeds, single seeds, and the baseline's mean."""
    curves = sum(bool(one.loss) for cell in report.cells for one in cell.finished)

    def losses(one: Replicate) -> list[tuple[float, float]]:
        points = finite(one.loss)
        if not points:
            return []
        steps, values = zip(*thinned(points), strict=True)
        every = math.ceil(curves / 30)  # many curves of fewer points: the page stays light
        return list(zip(steps, running_mean(values), strict=True))[::every]

    return _course_figure(report, losses, "training loss")


def during_figure(report: AblationReport) -> str:
    """FID of small evaluations while the last stage was training, laid out as the losses."""
    return _course_figure(report, lambda one: [(float(step), fid) for step, fid in finite(one.during)], "FID")


def _course_figure(report: AblationReport, course: Callable[[Replicate], list[tuple[float, float]]], label: str) -> str:
    found = {cell.name: [points for one in cell.finished if (points := course(one))] for cell in report.cells}
    cells = [cell for cell in report.cells if found[cell.name]]
    if not cells:
        return ""
    means = {cell.name: _mean_course(found[cell.name]) for cell in cells}

    def draw(plot: Axes, cell: CellRow) -> None:
        for points in found[cell.name]:
            plot.plot(*zip(*points, strict=True), lw=0.8, label="one seed", color=BLUE, alpha=0.4)
        if (base := means.get(report.baseline)) and cell.name != report.baseline:
            plot.plot(*zip(*base, strict=True), color=INK, lw=1.2, dashes=(4, 2), label="baseline, mean")
        if mine := means[cell.name]:
            plot.plot(*zip(*mine, strict=True), color=BLUE, lw=2, label="mean over seeds")

    values = [value for rows in found.values() for points in rows for _, value in points]
    with _panels(report.baseline, cells, draw, label) as (panels, out):
        for plot in panels:
            fit_axis(plot, values, "y")
            plot.set_xlim(left=0)
            plot.locator_params(axis="x", nbins=5)
        for plot in panels[-_COLUMNS:]:
            plot.set_xlabel("step")
    return out[0]


def _mean_course(courses: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Mean over seeds at the steps that all of them have."""
    tables = [dict(points) for points in courses]
    common = [step for step in tables[0] if all(step in table for table in tables)]
    return [(step, sum(table[step] for table in tables) / len(tables)) for step in common]


@contextmanager
def _panels(
    baseline: str, cells: Sequence[CellRow], draw: Callable[[Axes, CellRow], None], label: str, *, extra: float = 0.0
) -> Iterator[tuple[list[Axes], list[str]]]:
    """The drawn panels of ``cells``, three in a row, under one legend; ``extra`` inches of height per row."""
    columns = min(_COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    with drawing(_WIDTH * columns / _COLUMNS + (2 if columns == 1 else 0), (2.3 + extra) * rows + 0.4) as (figure, out):
        panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for plot in panels[len(cells) :]:
            plot.set_visible(False)
        known: dict[str, Any] = {}
        for number, (plot, cell) in enumerate(zip(panels, cells, strict=False)):
            draw(plot, cell)
            plot.set_title(f"{cell.name} (baseline)" if cell.name == baseline else cell.name)
            bare(plot)
            if number % columns == 0:
                plot.set_ylabel(label)
            known |= {name: handle for handle, name in zip(*plot.get_legend_handles_labels(), strict=True)}
        figure.legend(known.values(), known.keys(), loc="outside upper right", ncols=5, handletextpad=0.5)
        yield panels[: len(cells)], out
