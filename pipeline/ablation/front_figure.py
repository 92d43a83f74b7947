"""The figure of an ablation's two goals: chained FID against accuracy, its front, and the cell that was chosen."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.ablation.comparisons import Values, ranking
from pipeline.ablation.figures import PALE
from pipeline.ablation.labels import label
from pipeline.ablation.metrics import mean
from pipeline.ablation.parts import AblationReport, CellRow
from pipeline.report.plotting import BLUE, INK, QUIET, bare, drawing


class Place(NamedTuple):
    """A cell in the plane of the two goals; one that is not ``ranked`` lacks seeds, or too few cells have any."""

    cell: CellRow
    fid: float
    accuracy: float
    ranked: bool


def places(report: AblationReport) -> list[Place]:
    """The cells that have both goals: mean chained FID and mean accuracy over the seeds that all ranked cells have, of
    a cell that is not ranked over its own."""
    values: Values = {
        cell.name: {seed: {"chained_fid": fid} for seed, fid in cell.values("chained_fid").items()}
        for cell in report.cells
    }
    ranks = ranking(values)
    found = []
    for cell in report.cells:
        fids, shares = cell.values("chained_fid"), cell.values("accuracy")
        ranked = cell.name in ranks.cells and all(seed in shares for seed in ranks.seeds)
        fid, share = (mean(known[seed] for seed in (ranks.seeds if ranked else known)) for known in (fids, shares))
        if fid is not None and share is not None:
            found.append(Place(cell, fid, share, ranked))
    return found


def pareto_figure(report: AblationReport) -> str:
    """Mean accuracy against mean chained FID, rays to single seeds, the front as a stair; crosses are cells that are
    not ranked. Empty for fewer than two."""
    shown = places(report)
    if len(shown) < 2:
        return ""
    with drawing(7.9, 5.0) as (figure, out):
        plot = figure.add_subplot()
        for place in shown:
            cell, fid, accuracy, _ = place
            singles = _singles(cell)
            for one in singles:
                plot.plot([fid, one[0]], [accuracy, one[1]], color=PALE, lw=0.9, zorder=1)
            plot.plot(*zip(*singles, strict=True), "o", color=QUIET, ms=3.6, alpha=0.55, mew=0, zorder=2)
            colour, marker, size = _place_style(report, place)
            plot.plot([fid], [accuracy], marker, color=colour, mfc=colour if size > 8 else "white", ms=size, mew=1.7,
                      zorder=4)  # fmt: skip
            if cell.name == report.chosen:
                plot.plot([fid], [accuracy], "o", ms=18, mfc="none", mec=INK, mew=1.5, zorder=5)
        front = sorted((place.fid, place.accuracy) for place in shown if place.cell.name in report.front)
        if len(front) > 1:
            plot.step(*zip(*front, strict=True), where="post", color=BLUE, lw=1.4, dashes=(4, 2), zorder=3)
        plot.set(xlabel="chained FID (lower is better)", ylabel="accuracy (higher is better)")
        plot.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        plot.margins(0.13)
        bare(plot)
        figure.draw_without_rendering()
        named = [(place.cell.name, place.fid, place.accuracy) for place in shown]
        label(plot, named, ringed=report.chosen)
    return out[0]


def _singles(cell: CellRow) -> list[tuple[float, float]]:
    fids, shares = cell.values("chained_fid"), cell.values("accuracy")
    return [(fids[seed], shares[seed]) for seed in fids if seed in shares]


def _place_style(report: AblationReport, place: Place) -> tuple[str, str, float]:
    base = place.cell.name == report.baseline
    if not place.ranked:
        return INK if base else QUIET, "X", 7.5
    if place.cell.name in report.front:
        return BLUE, "D" if base else "o", 9.0
    return (INK, "D", 9.0) if base else (QUIET, "o", 7.5)
