"""Names beside the points of a figure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HALO = {"boxstyle": "square,pad=0.08", "fc": "white", "ec": "none", "alpha": 0.75}  # a name over rays and lines


def label(plot: Axes, shown: Sequence[tuple[str, float, float]], *, ringed: str | None) -> None:
    """The names of the points ``shown`` (name, x, y), each where it covers the least of the others and of the points.

    ``plot`` is drawn already; the point of the name ``ringed`` has a ring around it.
    """
    points = [plot.transData.transform((x, y)) for _, x, y in shown]
    frame = plot.get_window_extent()
    taken = [(x - 9, y - 9, x + 9, y + 9) for x, y in points]
    per_point = plot.figure.dpi / 72
    for (name, *place), (x, y) in zip(shown, points, strict=True):
        wide, tall = 6.2 * len(name) * per_point, 11 * per_point
        away = 14 if name == ringed else 9  # points
        best: tuple[float, float, float] | None = None
        for up, side in itertools.product((0, 1, -1, 2, -2, 3, -3), (1, -1)):
            left = x + side * away * per_point - (wide if side < 0 else 0)
            box = (left, y + up * tall - tall / 2, left + wide, y + up * tall + tall / 2)
            cost = sum(_overlap(box, other) for other in taken) + abs(up) * tall
            cost += 1e3 * ((box[0] < frame.x0) + (box[2] > frame.x1) + (box[1] < frame.y0) + (box[3] > frame.y1))
            if best is None or cost < best[0]:
                best = cost, box[0], box[1]
        assert best is not None
        _, left, low = best
        taken.append((left, low, left + wide, low + tall))
        offset = ((left - x) / per_point, (low + tall / 2 - y) / per_point)
        plot.annotate(name, (place[0], place[1]), offset, textcoords="offset points", va="center",
                      fontsize=9.5, zorder=6, bbox=_HALO)  # fmt: skip


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
