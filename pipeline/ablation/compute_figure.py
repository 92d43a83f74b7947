"""The figure of what quality costs: chained FID against the FLOPs to draw an image, where cells differ in them."""

from __future__ import annotations

from pipeline.ablation.figures import PALE
from pipeline.ablation.labels import label
from pipeline.ablation.metrics import mean
from pipeline.ablation.parts import AblationReport, CellRow
from pipeline.report.plotting import BLUE, INK, QUIET, bare, drawing


def computed(report: AblationReport) -> list[tuple[CellRow, float, float]]:
    """The cells with their mean GFLOP an image and mean chained FID; none where all compute as much."""
    found = []
    for cell in report.cells:
        gflop, fid = mean(one.compute.drawn_gflop for one in cell.finished if one.compute), cell.mean("chained_fid")
        if gflop is not None and fid is not None:
            found.append((cell, gflop, fid))
    return found if len({gflop for _, gflop, _ in found}) > 1 else []


def cheapest(report: AblationReport) -> list[str]:
    """The cells than which none is both cheaper and better, the cheapest first."""
    names: list[str] = []
    best = float("inf")
    for cell, _, fid in sorted(computed(report), key=lambda one: (one[1], one[2])):
        if fid < best:
            names.append(cell.name)
            best = fid
    return names


def compute_figure(report: AblationReport) -> str:
    """Mean chained FID against GFLOP, on a logarithmic axis, rays to single seeds; empty where all are alike."""
    shown = computed(report)
    if not shown:
        return ""
    front = cheapest(report)
    with drawing(7.9, 4.6) as (figure, out):
        plot = figure.add_subplot()
        for cell, gflop, fid in shown:
            singles = list(cell.values("chained_fid").values())
            plot.plot([gflop] * 2, [min(singles), max(singles)], color=PALE, lw=0.9, zorder=1)
            plot.plot([gflop] * len(singles), singles, "o", color=QUIET, ms=3.6, alpha=0.55, mew=0, zorder=2)
            base, on_front = cell.name == report.baseline, cell.name in front
            colour = BLUE if on_front else INK if base else QUIET
            plot.plot([gflop], [fid], "D" if base else "o", color=colour, ms=8.5, mew=1.7, zorder=4,
                      mfc=colour if on_front or base else "white")  # fmt: skip
        plot.set(xscale="log", xlabel="GFLOP to draw an image at this stage", ylabel="chained FID (lower is better)")
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        plot.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
        plot.margins(0.13)
        bare(plot)
        figure.draw_without_rendering()
        label(plot, [(cell.name, gflop, fid) for cell, gflop, fid in shown], ringed=None)
    return out[0]
