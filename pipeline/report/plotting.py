"""How the report's figures look, and SVG for a page: matplotlib's SVG backend, no window, no global state.

The same data gives the same bytes. What the figures show stands in ``figures``.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinguishable for every kind of colour vision (the green darkened for contrast).
BLUE, ORANGE, GREEN, INK, QUIET = "#0072B2", "#D55E00", "#00785A", "#1a1d21", "#6b737c"
_STYLE: Any = {
    "svg.hashsalt": "rayfall",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same everywhere
    "font.size": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_LOSS_POINTS = 300  # a curve of 100,000 steps must not weigh megabytes
_LOG_RATIO = 5.0  # values that spread further than this get a logarithmic axis


def fit_axis(plot: Axes, values: Iterable[float], which: str) -> None:
    """A logarithmic axis for positive values that spread widely, with readable numbers; else a linear one."""
    found = [value for value in values if math.isfinite(value)]
    if not found or min(found) <= 0 or max(found) / min(found) < _LOG_RATIO:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    wide = max(found) / min(found) > 200
    axis = plot.xaxis if which == "x" else plot.yaxis
    (plot.set_xscale if which == "x" else plot.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def bare(plot: Axes, grid: str = "both") -> None:
    plot.grid(True, axis=grid, color="#e3e6ea", lw=0.7)  # type: ignore[arg-type]
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)


def finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most ``_LOSS_POINTS`` points, each the mean of a run of neighbours."""
    width = math.ceil(len(points) / _LOSS_POINTS)
    parts = [points[start : start + width] for start in range(0, len(points), width)]
    return [(sum(p[0] for p in part) / len(part), sum(p[1] for p in part) / len(part)) for part in parts]


def running_mean(values: Sequence[float]) -> list[float]:
    reach = max(2, len(values) // 25)
    around = [values[max(0, n - reach) : n + reach + 1] for n in range(len(values))]
    return [sum(part) / len(part) for part in around]


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, list[str]]]:
    """A figure of that many inches to draw in; its SVG is the list's only element after the block."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out: list[str] = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, out
        buffer = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata=metadata)
        out.append(buffer.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', system-ui, sans-serif"))


def inline(svg: str, name: str, description: str) -> str:
    """The <svg> element for a page that holds several: ids begin with ``name``, ``description`` is read aloud.

    Namespaces go (HTML knows them), as does the style sheet, which would hold for the whole page: see report.css.
    """
    element = svg[svg.index("<svg") :].strip()
    element = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", element, flags=re.DOTALL)
    element = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", element)
    element = element.replace("xlink:href", "href")
    element = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', element)
    element = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", element)
    return element.replace("<svg", f'<svg role="img" aria-label="{escape(description, quote=True)}"', 1)
