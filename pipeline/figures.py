"""The figures of the report: FID per stage, training losses, scores against the augmentation level.

Each function gives a stand-alone SVG document, or an empty string when there is nothing to show; ``plotting.inline``
makes it an element of an HTML page. Every distinction of colour is one of dashes or markers too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.plotting import BLUE, GREEN, INK, ORANGE, QUIET, bare, drawing, finite, fit_axis, running_mean, thinned
from pipeline.report_parts import KIND_NAMES, Kind, SearchPoint, SearchSection, StageSection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND_STYLES: dict[Kind, tuple[str, str]] = {"truncated": (BLUE, "o"), "non_truncated": (ORANGE, "s")}
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


def level_figure(section: SearchSection) -> str:
    """FID (left), accuracy and recall (right) against s, with log-SNR and DDPM step beside s. Empty without points.

    The FID of real images is left out: a search draws fewer samples than the evaluation, and FID depends on that.
    """
    if not section.points:
        return ""
    chosen = [point for point in section.points if section.is_chosen(point)]
    with drawing(10.4, 3.9) as (figure, out):
        left, right = figure.subplots(1, 2)
        fids = _lines(left, section, "chained_fid", "chained, {}")
        fids += _oracle_lines(left, section)
        _lines(right, section, "accuracy", "accuracy, {}")
        _lines(right, section, "recall", "recall, {}", dashes=(1, 1.2), filled=False)
        _mark(left, [(point.level, point.chained_fid) for point in chosen])
        _mark(right, [(point.level, point.accuracy) for point in chosen])
        left.set(title="FID (lower is better)")
        right.set(title="Accuracy and recall (higher is better)")
        fit_axis(left, fids, "y")
        right.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        for plot in (left, right):
            plot.margins(y=0.09)
            _level_axis(plot, section.points)
            bare(plot)
            handles, _ = plot.get_legend_handles_labels()
            if handles:
                plot.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2)
    return out[0]


def _lines(
    plot: Axes, section: SearchSection, value: str, label: str, *, dashes: Any = None, filled: bool = True
) -> list[float]:
    """A curve per kind; the kinds share the point s = 0. Returns what was drawn."""
    drawn: list[float] = []
    tried = {point.kind for point in section.points if point.level > 0} or {point.kind for point in section.points}
    for kind, (colour, marker) in KIND_STYLES.items():
        mine = [point for point in section.points if point.kind == kind or point.level == 0.0]
        points = sorted({(p.level, getattr(p, value)) for p in mine if getattr(p, value) is not None})
        if kind in tried and points:
            levels, values = zip(*points, strict=True)
            style: dict[str, Any] = {"dashes": dashes} if dashes else {}
            face, name = colour if filled else "white", label.format(KIND_NAMES[kind])
            plot.plot(levels, values, marker=marker, color=colour, lw=1.8, ms=5.5, mfc=face, label=name, **style)
            drawn += values
    return drawn


def _oracle_lines(plot: Axes, section: SearchSection) -> list[float]:
    """One curve where the kinds agree: noise on a real low-res image does not know how the chain stops."""
    by_level: dict[float, set[float]] = {}
    for point in section.points:
        if point.oracle_fid is not None:
            by_level.setdefault(point.level, set()).add(point.oracle_fid)
    if any(len(found) > 1 for found in by_level.values()):
        return _lines(plot, section, "oracle_fid", "oracle, {}", dashes=(4, 1.6), filled=False)
    points = sorted((level, min(found)) for level, found in by_level.items())
    if points:
        levels, values = zip(*points, strict=True)
        plot.plot(levels, values, marker="^", color=INK, mfc="white", lw=1.5, ms=6, dashes=(4, 1.6), label="oracle")
    return [value for _, value in points]


def _mark(plot: Axes, points: Iterable[tuple[float, float | None]]) -> None:
    for level, value in points:
        if value is not None:
            plot.plot([level], [value], "o", ms=15, mfc="none", mec=INK, mew=1.5, label="chosen", zorder=5)
            return


def _level_axis(plot: Axes, points: Sequence[SearchPoint]) -> None:
    """Ticks at the levels that were tried (as many as fit), each with its log-SNR and DDPM step."""
    places = sorted({(point.level, point.logsnr, point.ddpm_step) for point in points})
    low, high = places[0][0], places[-1][0]
    margin = 0.07 * (high - low) or 0.05
    plot.set_xlim(low - margin, high + margin)
    kept = [places[0]]
    for place in places[1:]:
        if place[0] - kept[-1][0] >= 0.11 * (high - low):
            kept.append(place)
    labels = [f"{level:.3g}\n{logsnr:+.1f}\n{step:.0f}" for level, logsnr, step in kept]
    plot.set_xticks([place[0] for place in kept], labels, linespacing=1.35)
    names = "s\nlog-SNR\nstep"
    anchor: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    plot.annotate(names, (0, 0), (-6, -7), ha="right", va="top", color=QUIET, linespacing=1.35, **anchor)
