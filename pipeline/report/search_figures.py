"""The figures of a search: scores against what was searched, the Pareto front, the looks at trials in training.

As in ``figures``: stand-alone SVG documents, or an empty string when there is nothing to show. Trials that did not
reach the end have no scores to compare: they stand as marks at the upper edge, where their settings lie.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.plotting import BLUE, GREEN, INK, ORANGE, QUIET, bare, drawing, fit_axis
from pipeline.report.search_axes import Axis, axes_of
from pipeline.report.search_parts import KIND_NAMES, Place, SearchPoint, SearchSection, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = Sequence[tuple[float, SearchPoint]]  # where trials stand, and they
PURPLE, SKY = "#8f4c7a", "#1f8fc4"
# Of the groups of a figure: each colour has its marker. The first two are those of the kinds of augmentation.
STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (PURPLE, "^"), (SKY, "P"))
ENDS: dict[Status, dict[str, Any]] = {
    "dropped": {"marker": "v", "mfc": "white", "color": QUIET, "ms": 6},
    "pruned": {"marker": "v", "color": QUIET, "ms": 6},
    "failed": {"marker": "x", "color": "#a84300", "ms": 6, "mew": 1.8},
}
_ORACLE: dict[str, Any] = {"dashes": (4, 1.6), "mfc": "white"}
_RECALL: dict[str, Any] = {"dashes": (1, 1.2), "mfc": "white"}


def settings_figure(section: SearchSection) -> str:
    """Scores against what the round searched, in the way that fits: see the functions below. Empty without scores."""
    if not section.varied or not any(_drawn(point) for point in section.points):
        return ""
    if section.of_levels:
        return level_figure(section)
    axes = sorted(axes_of(section), key=lambda axis: (axis.numeric, len(axis.ticks)), reverse=True)
    if is_sliced(section):
        return slices_figure(section, axes_of(section))
    return lines_figure(section, axes[0], axes[1] if len(axes) > 1 else None)


def is_sliced(section: SearchSection) -> bool:
    """Whether so much was searched that each setting has a panel of its own: more than a line for each of few values
    of one setting could show."""
    axes = sorted(axes_of(section), key=lambda axis: (axis.numeric, len(axis.ticks)))
    return not section.of_levels and (len(axes) > 2 or (len(axes) == 2 and len(axes[0].ticks) > len(STYLES)))


def _drawn(point: SearchPoint) -> bool:
    return point.finished and (point.chained_fid is not None or point.accuracy is not None)


def level_figure(section: SearchSection) -> str:
    """FID (left), accuracy and recall (right) against s, with log-SNR and DDPM step beside s; a line for each kind of
    augmentation. Empty without points.

    The FID of real images is left out: a search draws fewer samples than the evaluation, and FID depends on that.
    """
    places = {index: section.place(index) for index in range(len(section.points))}
    scored = [index for index in places if _drawn(section.points[index])]
    if not scored:
        return ""
    tried = {places[index].kind for index in scored if places[index].level} or {places[index].kind for index in scored}
    lines: dict[str, Line] = {}
    for kind in KIND_NAMES:
        # The kinds are the same thing at s = 0, and share that trial.
        mine = [index for index in scored if places[index].kind == kind or places[index].level == 0.0]
        if kind in tried:
            mine.sort(key=lambda index: places[index].level)
            lines[KIND_NAMES[kind]] = [(places[index].level, section.points[index]) for index in mine]
    with drawing(10.4, 3.9) as (figure, out):
        left, right = figure.subplots(1, 2)
        _pair(left, right, section, lines, {index: place.level for index, place in places.items()})
        for plot in (left, right):
            _level_axis(plot, list(places.values()))
    return out[0]


def lines_figure(section: SearchSection, along: Axis, by: Axis | None) -> str:
    """FID (left), accuracy and recall (right) against one searched path, a line for each value of the other."""
    at = {index: along.at(point.settings[along.path]) for index, point in enumerate(section.points)}
    found: dict[str, list[tuple[float, SearchPoint]]] = {}
    for index in sorted(at, key=lambda index: at[index]):
        point = section.points[index]
        if _drawn(point):
            group = f"{by.name} {by.label(point.settings[by.path])}" if by else ""
            found.setdefault(group, []).append((at[index], point))
    names = [f"{by.name} {label}" for label in by.labels] if by else [""]
    lines = {name: found[name] for name in names if name in found}
    with drawing(10.4, 3.7) as (figure, out):
        left, right = figure.subplots(1, 2)
        _pair(left, right, section, lines, at, joined=along.numeric)
        for plot in (left, right):
            along.dress(plot)
    return out[0]


def _pair(
    left: Axes,
    right: Axes,
    section: SearchSection,
    lines: Mapping[str, Line],
    at: Mapping[int, float],
    *,
    joined: bool = True,
) -> None:
    """Both panels: ``lines`` by name, points of each with where they stand; ``at`` is where every trial stands."""
    fids: list[float] = []
    same = len(lines) > 1 and _oracles_agree(lines.values())
    for (colour, marker), (name, line) in zip(STYLES, lines.items(), strict=False):
        style: dict[str, Any] = {"color": colour, "marker": marker, "ls": "-" if joined else ""}
        after = f", {name}" if name else ""
        fids += _curve(left, line, "chained_fid", f"chained{after}", style)
        if not same:
            fids += _curve(
                left, line, "oracle_fid", f"oracle{after}", style | (_ORACLE if joined else {"mfc": "white"})
            )
        _curve(right, line, "accuracy", f"accuracy{after}", style)
        _curve(right, line, "recall", f"recall{after}", style | (_RECALL if joined else {"mfc": "white"}))
    if same:
        shared = sorted({x: point for line in lines.values() for x, point in line}.items())
        fids += _curve(left, shared, "oracle_fid", "oracle", {"color": INK, "marker": "^", **_ORACLE})
    left.set_title("FID (lower is better)", pad=_pad(section))
    right.set_title("Accuracy and recall (higher is better)", pad=_pad(section))
    fit_axis(left, fids, "y")
    right.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    for plot, value in ((left, "chained_fid"), (right, "accuracy")):
        _mark_chosen(plot, section, at, value)
        _mark_ends(plot, section, at)
        plot.margins(y=0.09)
        bare(plot)
        handles, _ = plot.get_legend_handles_labels()
        if handles:
            plot.legend(
                fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.3 if section.of_levels else -0.22), ncols=2
            )


def _oracles_agree(lines: Iterable[Line]) -> bool:
    """Whether lines have one oracle: noise on a real low-res image does not know how the chain stops."""
    found: dict[float, set[float]] = {}
    for line in lines:
        for x, point in line:
            if point.oracle_fid is not None:
                found.setdefault(x, set()).add(point.oracle_fid)
    return bool(found) and all(len(values) == 1 for values in found.values())


def _curve(plot: Axes, line: Line, value: str, label: str, style: dict[str, Any]) -> list[float]:
    """One line with its standard errors; returns what was drawn."""
    points = [(x, getattr(point, value), getattr(point, f"{value}_error", None)) for x, point in line]
    points = [(x, y, error or 0.0) for x, y, error in points if y is not None]
    if points:
        xs, ys, errors = zip(*points, strict=True)
        plot.plot(xs, ys, lw=1.8, ms=5.5, label=label, **style)
        if any(errors):
            low = [min(error, 0.98 * y) for y, error in zip(ys, errors, strict=True)]  # a log axis has no zero
            plot.errorbar(xs, ys, yerr=[low, errors], fmt="none", ecolor=style["color"], elinewidth=1, alpha=0.55)
    return [y for _, y, _ in points]


def _mark_chosen(plot: Axes, section: SearchSection, at: Mapping[int, float], value: str) -> None:
    if section.chosen is not None and (y := getattr(section.points[section.chosen], value)) is not None:
        x = at[section.chosen]
        plot.plot([x], [y], "o", ms=15, mfc="none", mec=INK, mew=1.5, ls="", label="chosen", zorder=5)


def _mark_ends(plot: Axes, section: SearchSection, at: Mapping[int, float]) -> None:
    """Trials that did not reach the end, above the panel where their settings lie."""
    height, over = 1.035, plot.get_xaxis_transform()
    for status, style in ENDS.items():
        xs = Counter(at[index] for index, point in enumerate(section.points) if point.status == status)
        if not xs:
            continue
        plot.plot(list(xs), [height] * len(xs), ls="", transform=over, clip_on=False, label=status, **style)
        for x, count in xs.items():
            if count > 1:
                beside: dict[str, Any] = {"xytext": (5, -0.5), "textcoords": "offset points", "va": "center"}
                plot.annotate(f"×{count}", (x, height), xycoords=over, fontsize=8, color=INK, **beside)
        height += 0.075


def _pad(section: SearchSection) -> float:
    """Space between a panel and its title, for the marks there."""
    return 6.0 + 12.0 * len(set(section.counts) - {"finished"})


def _level_axis(plot: Axes, places: Sequence[Place]) -> None:
    """Ticks at the levels that were tried (as many as fit), each with its log-SNR and DDPM step."""
    found = sorted({(place.level, place.logsnr, place.ddpm_step) for place in places})
    low, high = found[0][0], found[-1][0]
    margin = 0.07 * (high - low) or 0.05
    plot.set_xlim(low - margin, high + margin)
    kept = [found[0]]
    for place in found[1:]:
        if place[0] - kept[-1][0] >= 0.11 * (high - low):
            kept.append(place)
    labels = [f"{level:.3g}\n{logsnr:+.1f}\n{step:.0f}" for level, logsnr, step in kept]
    plot.set_xticks([place[0] for place in kept], labels, linespacing=1.35)
    names = "s\nlog-SNR\nstep"
    anchor: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    plot.annotate(names, (0, 0), (-6, -7), ha="right", va="top", color=QUIET, linespacing=1.35, **anchor)


def slices_figure(section: SearchSection, axes: Sequence[Axis]) -> str:
    """The score that counts against each searched path in a panel of its own: every trial is in every panel."""
    value, title = ("accuracy", "accuracy") if section.metric == "chained_accuracy" else ("chained_fid", "chained FID")
    columns = min(3, len(axes))
    rows = math.ceil(len(axes) / columns)
    scored = [(n, p, getattr(p, value)) for n, p in enumerate(section.points) if p.finished]
    scored = [(n, p, y) for n, p, y in scored if y is not None]
    with drawing(3.5 * columns, 2.75 * rows + 0.3) as (figure, out):
        known: dict[Any, Any] = {}
        for number, axis in enumerate(axes):
            plot = figure.add_subplot(rows, columns, number + 1)
            at = {index: axis.at(point.settings[axis.path]) for index, point in enumerate(section.points)}
            line = [(at[index], point) for index, point, _ in scored]
            _curve(plot, line, value, "finished", {"color": BLUE, "marker": "o", "ls": "", "alpha": 0.8})
            _mark_chosen(plot, section, at, value)
            _mark_ends(plot, section, at)
            fit_axis(plot, [y for *_, y in scored], "y")
            axis.dress(plot)
            plot.margins(y=0.09)
            bare(plot)
            if value == "accuracy":
                plot.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
            if number % columns == 0:
                plot.set_ylabel(title)
            known |= {name: handle for handle, name in zip(*plot.get_legend_handles_labels(), strict=True)}
        figure.legend(known.values(), known.keys(), loc="outside upper right", ncols=len(known), handletextpad=0.4)
    return out[0]
