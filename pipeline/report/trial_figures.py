"""Figures whose marks are the trials of a search themselves: the Pareto front of two goals, and looks in training.

As in ``search_figures``, which has the scores against what was searched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.report.plotting import BLUE, INK, bare, drawing, fit_axis
from pipeline.report.search_figures import ENDS
from pipeline.report.search_parts import SearchPoint, SearchSection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FAINT = "#b4bbc3"


def front_figure(section: SearchSection) -> str:
    """Accuracy against chained FID: the front of the finished trials and the others that finished.

    Numbers are places in the table. Empty with fewer than two finished trials that have both scores.
    """
    finished = {
        index: (point.chained_fid, point.accuracy)
        for index, point in enumerate(section.points)
        if point.chained_fid is not None and point.accuracy is not None
    }
    if len(finished) < 2:
        return ""
    with drawing(6.9, 3.9) as (figure, out):
        plot = figure.add_subplot()
        _errors(plot, section, finished)
        off = [at for index, at in finished.items() if index not in section.front]
        on = [finished[index] for index in section.front if index in finished]
        if off:
            plot.plot(*zip(*off, strict=True), "o", color=BLUE, mfc="white", ms=6.5, label="finished")
        if on:
            # Between two trials of the front nothing was seen: a step claims no more than the trials themselves do.
            style: dict[str, Any] = {"color": BLUE, "ms": 7.5, "lw": 1.6, "label": "Pareto front"}
            plot.plot(*zip(*on, strict=True), "o-", drawstyle="steps-post", **style)
        if section.chosen in finished:
            chosen = [[value] for value in finished[section.chosen]]
            plot.plot(*chosen, "o", ms=15, mfc="none", mec=INK, mew=1.5, ls="", label="chosen", zorder=5)
        _number(plot, section, finished)
        plot.set(xlabel="chained FID (lower is better)", ylabel="accuracy (higher is better)")
        plot.margins(0.1)
        plot.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        fit_axis(plot, [fid for fid, _ in finished.values()], "x")
        bare(plot)
        handles, _ = plot.get_legend_handles_labels()
        figure.legend(loc="outside upper right", ncols=len(handles), handletextpad=0.4)
    return out[0]


def _errors(plot: Axes, section: SearchSection, finished: dict[int, Any]) -> None:
    """Standard errors of the FID, where there are few enough trials to see them."""
    known = [(at, section.points[index].chained_fid_error) for index, at in finished.items()]
    if len(known) <= 40:
        for (fid, accuracy), error in known:
            if error:
                low = max(fid - error, 0.02 * fid)
                plot.plot([low, fid + error], [accuracy, accuracy], color=_FAINT, lw=1, zorder=1)


def _number(plot: Axes, section: SearchSection, finished: dict[int, Any]) -> None:
    """Places of the front's trials, on the side where nothing can be, as nothing beats them; and of the chosen."""
    named = [index for index in dict.fromkeys([*section.front, section.chosen]) if index in finished]
    for index in named:
        offset: dict[str, Any] = {"xytext": (-7, 6), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        plot.annotate(f"{section.ranks[index]}", finished[index], color=INK, fontsize=9.5, **offset)


def rungs_figure(section: SearchSection) -> str:
    """FID of each look at a trial against its step, and how the trial ended. Empty unless trials in training had any.

    The last point of a finished trial is its last look, not its score: that is of more samples.
    """
    looked = [(index, point) for index, point in enumerate(section.points) if point.rungs]
    if section.kind != "training" or not looked:
        return ""
    with drawing(6.9, 3.9) as (figure, out):
        plot = figure.add_subplot()
        for index, point in looked:
            _course(plot, point, chosen=index == section.chosen)
        fit_axis(plot, [fid for _, point in looked for _, fid in point.rungs], "y")
        steps = sorted({step for _, point in looked for step, _ in point.rungs})
        fit_axis(plot, [float(step) for step in steps], "x")
        if len(steps) <= 7:
            plot.set_xticks(steps, [f"{step:,}" for step in steps])
            plot.minorticks_off()
        plot.set(xlabel="step", ylabel="FID of a look (lower is better)")
        plot.margins(x=0.05)
        bare(plot)
        handles, names = plot.get_legend_handles_labels()
        known = dict(zip(names, handles, strict=True))
        legend = [name for name in ("finished", "chosen", *ENDS) if name in known]
        figure.legend([known[name] for name in legend], legend, loc="outside upper right", ncols=len(legend))
    return out[0]


def _course(plot: Axes, point: SearchPoint, *, chosen: bool) -> None:
    steps, fids = zip(*point.rungs, strict=True)
    if chosen:
        plot.plot(steps, fids, "o-", color=BLUE, lw=2.6, ms=6, label="chosen", zorder=4)
    elif point.finished:
        plot.plot(steps, fids, "o-", color=BLUE, lw=1.2, ms=4, alpha=0.65, label="finished", zorder=3)
    else:
        style = ENDS[point.status]
        plot.plot(steps, fids, color=_FAINT, lw=1.2, dashes=(4, 1.6), zorder=2)
        plot.plot(steps[-1:], fids[-1:], ls="", **style, label=point.status, zorder=2)
