"""Figures of how scores came about: FID against the sample count and against the training step, power spectra.

As in ``figures``: stand-alone SVG documents, or an empty string when there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.parts import StageSection
from pipeline.report.plotting import BLUE, GREEN, INK, ORANGE, bare, drawing, finite, fit_axis
from pipeline.report.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS: dict[str, dict[str, Any]] = {
    "real": {"color": GREEN, "marker": "D", "ms": 4.5, "lw": 1.6, "label": "real, held out"},
    "oracle": {"color": BLUE, "marker": "^", "ms": 5.5, "lw": 1.6, "dashes": (4, 1.6), "label": "oracle"},
    "chained": {"color": ORANGE, "marker": "o", "ms": 4.5, "lw": 1.8, "dashes": (1.2, 1.2), "label": "chained"},
}


def curve_figure(stages: Sequence[StageSection]) -> str:
    """FID against one over the sample count, a panel per stage, and the line to infinitely many samples."""
    shown = [stage for stage in stages if len(stage.chained.fid_curve) > 1]

    def draw(plot: Axes, stage: StageSection) -> None:
        counts: set[int] = set()
        for kind, style in KINDS.items():
            if (scores := stage.rows.get(kind)) is not None and len(scores.fid_curve) > 1:
                counts |= _curve(plot, scores, style)
        kept = sorted(counts, reverse=True)
        places = [kept[0]]  # the most samples, and as many others as leave their numbers legible
        places += [count for count in kept[1:] if count and 1 / count > 0.12 / kept[-1]][-3:]
        ticks = {0.0: "∞", **{1 / count: f"{count:,}" for count in dict.fromkeys(places)}}
        plot.set_xticks(list(ticks), list(ticks.values()))
        plot.set(title=stage.name, xlabel="samples")
        plot.set_xlim(left=-0.04 / kept[-1])

    return _panels(shown, draw, "FID")


def _curve(plot: Axes, scores: Scores, style: dict[str, Any]) -> set[int]:
    """One kind's points, a line through them and the extrapolated value at 1 / n = 0; returns the counts."""
    points = sorted(scores.fid_curve)
    plot.plot([1 / count for count, _ in points], [fid for _, fid in points], **style)
    if scores.fid_infinity is not None:
        count, fid = points[-1]
        plot.plot([0, 1 / count], [scores.fid_infinity, fid], color=style["color"], lw=1.0, alpha=0.6)
        plot.errorbar(
            [0], [scores.fid_infinity], yerr=[scores.fid_infinity_error or 0.0], fmt=style["marker"], mfc="white",
            color=style["color"], ms=style["ms"] + 1, capsize=2.5,
        )  # fmt: skip
    return {count for count, _ in points}


def spectra_figure(stages: Sequence[StageSection]) -> str:
    """Radially averaged power against cycles per pixel on logarithmic axes, a panel per stage."""
    shown = [stage for stage in stages if stage.chain is not None]

    def draw(plot: Axes, stage: StageSection) -> None:
        assert stage.chain is not None
        for kind, style in KINDS.items():
            if (power := stage.chain.power.get(kind)) and max(power) > 0:
                plot.plot(stage.chain.frequencies, power, **style)
        plot.set_xscale("log")
        plot.set_yscale("log")
        ticks = [2.0**-octave for octave in range(1, 12) if 2.0**-octave >= stage.chain.frequencies[0] * 0.99]
        ticks = ticks[:: math.ceil(len(ticks) / 5)]
        plot.set_xticks(ticks, [f"1/{round(1 / tick)}" for tick in ticks])
        plot.minorticks_off()
        plot.set(title=f"{stage.name}, {stage.size} px", xlabel="cycles per pixel")

    return _panels(shown, draw, "power")


def during_figure(stages: Sequence[StageSection]) -> str:
    """FID against the training step, a panel per stage, of small evaluations while it was training: in the features of
    the data set's own classifier, whatever net the other scores are of."""
    shown = [stage for stage in stages if finite(stage.during)]

    def draw(plot: Axes, stage: StageSection) -> None:
        steps, fids = zip(*finite(stage.during), strict=True)
        plot.plot(steps, fids, **{**KINDS["chained"], "dashes": (None, None)})
        fit_axis(plot, fids, "y")
        plot.set_xlim(left=0)
        plot.locator_params(axis="x", nbins=5)
        plot.set(title=stage.name, xlabel="step")

    return _panels(shown, draw, "FID, classifier's features", legend=False)


def _panels(
    stages: Sequence[StageSection], draw: Callable[[Axes, StageSection], None], label: str, *, legend: bool = True
) -> str:
    """A panel per stage, three in a row, under one legend of the kinds that are drawn."""
    if not stages:
        return ""
    columns = min(3, len(stages))
    rows = math.ceil(len(stages) / columns)
    with drawing(3.5 * columns + (1.5 if columns == 1 else 0), 2.6 * rows + 0.3 * legend) as (figure, out):
        known: dict[Any, Any] = {}
        for number, stage in enumerate(stages, start=1):
            plot = figure.add_subplot(rows, columns, number)
            draw(plot, stage)
            bare(plot)
            if number % columns == 1 or columns == 1:
                plot.set_ylabel(label, color=INK)
            known |= {name: handle for handle, name in zip(*plot.get_legend_handles_labels(), strict=True)}
        if legend:
            names = [style["label"] for style in KINDS.values() if style["label"] in known]
            figure.legend([known[name] for name in names], names, loc="outside upper right", ncols=3, handletextpad=0.5)
    return out[0]
