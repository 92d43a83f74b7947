"""The report's figures as inline SVG, by matplotlib's SVG backend: no window, no global state, the same bytes again."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's colours, distinguishable for every kind of colour vision; dashes and markers say the same again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555")


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y), how it is named in the legend, and how it is drawn."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    marker: str = ""


@dataclass(frozen=True)
class Axes:
    """What stands on the axes of a figure."""

    x: str
    y: str
    log_x: bool = False
    log_y: bool = False


def line_figure(lines: Sequence[Line], axes: Axes, *, description: str, mark: tuple[float, float] | None = None) -> str:
    """SVG of ``lines``; ``description`` is its alternative text, ``mark`` a point to ring (the chosen setting)."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": "rayfall", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        plot = figure.add_subplot()
        for line in lines:
            x, y = zip(*line.points, strict=True) if line.points else ((), ())
            plot.plot(x, y, line.marker + ("--" if line.dashed else "-"), color=line.colour, label=line.label, lw=1.8)
        if mark is not None:
            plot.plot([mark[0]], [mark[1]], "o", ms=14, mfc="none", mec="#000000", mew=1.5, label="chosen")
        plot.set(xlabel=axes.x, ylabel=axes.y)
        if axes.log_x:
            plot.set_xscale("log")
        if axes.log_y:
            plot.set_yscale("log")
        plot.grid(True, color="#dddddd", lw=0.6)
        plot.spines[["top", "right"]].set_visible(False)
        plot.legend(frameon=False, fontsize=9)
        out = io.StringIO()
        canvas.print_figure(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _inline(out.getvalue(), description)


def _inline(svg: str, description: str) -> str:
    """The <svg> element alone, scalable, with its alternative text; ids made unique to this figure."""
    from html import escape
    from zlib import crc32

    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    prefix = f"f{crc32((description + element).encode()):08x}-"
    element = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', element)
    element = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", element)
    label = escape(description, quote=True)
    return element.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
