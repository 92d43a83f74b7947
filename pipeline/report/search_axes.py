"""The axes of a search's figures: where a setting's values lie, numbers by their size and all else side by side."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipeline.report.search_parts import SearchSection
from pipeline.report.setting_names import told_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_RATIO = 5.0  # numbers that spread further than this lie on a logarithmic axis
_LONG = 22  # letters of a label that stand on an axis; the table has all of them
_LETTER = 0.035  # of the width of a narrow panel, that a letter of a label takes


@dataclass(frozen=True)
class Axis:
    """What one searched path took. ``ticks`` are its distinct values, numbers in ascending order."""

    path: str
    name: str
    ticks: tuple[Any, ...]
    numeric: bool

    @property
    def labels(self) -> list[str]:
        """Of the ticks, as ``label`` has them."""
        return [self.label(value) for value in self.ticks]

    def label(self, value: Any) -> str:
        """A value in few letters."""
        text = told_value(value)
        return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"

    def at(self, value: Any) -> float:
        """Where ``value`` lies."""
        return float(value) if self.numeric else float(_keys(self.ticks).index(_key(value)))

    def dress(self, plot: Axes) -> None:
        """Name, ticks and limits of the horizontal axis."""
        plot.set_xlabel(self.name)
        if not self.numeric:
            long = sum(map(len, self.labels)) > 30 or len(self.ticks) > 5
            style: dict[str, Any] = {"rotation": 20, "ha": "right"} if long else {}
            plot.set_xticks(range(len(self.ticks)), self.labels, **style)
            plot.set_xlim(-0.5, len(self.ticks) - 0.5)
            return
        plot.margins(x=0.07)
        numbers = [float(value) for value in self.ticks]
        if numbers[0] > 0 and numbers[-1] / numbers[0] >= _LOG_RATIO:
            plot.set_xscale("log")
            plot.minorticks_off()
        scale = math.log if plot.get_xscale() == "log" else float
        apart = _LETTER * (1 + max(map(len, self.labels))) * (scale(numbers[-1]) - scale(numbers[0]))
        if all(scale(high) - scale(low) >= apart for low, high in pairwise(numbers)):
            plot.set_xticks(numbers, self.labels)
        elif plot.get_xscale() == "log":
            _few_ticks(plot, numbers)
        else:
            plot.locator_params(axis="x", nbins=6)


def _few_ticks(plot: Axes, numbers: list[float]) -> None:
    """Round numbers on a logarithmic axis, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    decades = math.log10(numbers[-1] / numbers[0])
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    plot.xaxis.set_major_locator(LogLocator(subs=subs))
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def axes_of(section: SearchSection) -> list[Axis]:
    """An axis for each varied path of ``section``, in their order."""
    return [_axis(section, path) for path in section.varied]


def _axis(section: SearchSection, path: str) -> Axis:
    values = {_key(point.settings[path]): point.settings[path] for point in section.points}
    return Axis(path, section.names[path], tuple(sorted(values.values(), key=_rank)), section.numeric(path))


def _rank(value: Any) -> tuple[int, float, str]:
    """Null first, then numbers by their size, then all else by its letters."""
    if value is None:
        return 0, 0.0, ""
    return (1, float(value), "") if type(value) in (int, float) else (2, 0.0, _key(value))


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _keys(values: tuple[Any, ...]) -> list[str]:
    return [_key(value) for value in values]
