"""The figures of the report: FID per stage, training losses. Those of a search are in ``search_figures``.

Each function gives a stand-alone SVG document, or an empty string when there is nothing to show; ``plotting.inline``
makes it an element of an HTML page. Every distinction of colour is one of dashes or markers too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.report.parts import StageSection
from pipeline.report.plotting import BLUE, GREEN, ORANGE, bare, drawing, finite, fit_axis, running_mean, thinned

_MARKS = (("real, held out", GREEN, "D"), ("oracle", BLUE, "^"), ("chained", ORANGE, "o"))


def stages_figure(stages: Sequence[StageSection]) -> str:
    """FID of each stage: real against real, oracle, chained, on one line per stage, with errors.

    Empty without any FID.
    """
    found = [fid for stage in stages for _, fid, *_ in _fids(stage)]
    if not found:
        return ""
    with drawing(7.4, 0.95 + 0.42 * len(stages)) as (figure, out):
        plot = figure.add_subplot()
        for row, stage in enumerate(stages):
            fids = _fids(stage)
            ends = [fid for _, fid, *_ in fids]
            if ends:
                plot.plot([min(ends), max(ends)], [row, row], color="#c9ced4", lw=3, zorder=1)
            for name, fid, colour, marker, error in fids:
                if error:
                    plot.plot([max(fid - error, 0.02 * fid), fid + error], [row, row], color=colour, lw=2, zorder=2)
                plot.plot([fid], [row], marker, color=colour, ms=8, zorder=3, label=name)
        plot.set_yticks(range(len(stages)), [f"{stage.name}, {stage.size} px" for stage in stages])
        plot.set_ylim(len(stages) - 0.5, -0.5)
        plot.set_xlabel("FID (lower is better)")
        fit_axis(plot, found, "x")
        bare(plot, grid="x")
        handles, names = plot.get_legend_handles_labels()
        known = dict(zip(names, handles, strict=True))
        legend = {name: known[name] for name, *_ in _MARKS if name in known}
        figure.legend(legend.values(), legend.keys(), loc="outside upper right", ncols=3, handletextpad=0.2)
    return out[0]


def _fids(stage: StageSection) -> list[tuple[str, float, str, str, float]]:
    scores = {"real, held out": stage.real, "oracle": stage.oracle, "chained": stage.chained}
    found = []
    for name, colour, marker in _MARKS:
        score = scores[name]
        if score is not None and score.fid is not None:
            found.append((name, score.fid, colour, marker, score.fid_error or 0.0))
    return found


def loss_figure(stages: Sequence[StageSection]) -> str:
    """Training loss against the step, a panel per stage: logged values, and their running mean. Empty without any."""
    shown = [(stage.name, finite(stage.loss)) for stage in stages]
    shown = [(name, points) for name, points in shown if points]
    if not shown:
        return ""
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    with drawing(3.5 * columns + (1.5 if columns == 1 else 0), 2.5 * rows) as (figure, out):
        for number, (name, points) in enumerate(shown, start=1):
            plot = figure.add_subplot(rows, columns, number)
            steps, values = zip(*thinned(points), strict=True)
            plot.plot(steps, values, color=BLUE, alpha=0.35, lw=0.9)
            plot.plot(steps, running_mean(values), color=BLUE, lw=1.9)
            plot.set(title=name, xlabel="step")
            if number % columns == 1 or columns == 1:
                plot.set_ylabel("training loss")
            fit_axis(plot, values, "y")
            plot.set_xlim(left=0)
            plot.locator_params(axis="x", nbins=5)
            bare(plot)
    return out[0]
