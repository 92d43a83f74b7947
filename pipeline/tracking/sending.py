"""Points on their way into MLflow: each (run, metric, step) once, whatever was sent before, by whom, and whether it
was answered.

Two things keep a point from being doubled. What a run has is asked before the first write to it, and again after each
that failed. And where a write is still under way that nobody waits for any more, the same points with the same times
are written again: MLflow's SQL stores, which every server has, keep one of them, time, step and value being part of
the key of their table.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.tracking.journal import Point
from pipeline.tracking.runs import Tracker


class Sender:
    """Writes points to the runs of one store, those that they lack. Remembers what they have; not for two threads."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._known: dict[str, dict[str, set[int]]] = {}  # run -> metric -> steps

    def send(self, run: str, points: Sequence[Point]) -> None:
        """Write those of ``points`` whose steps the run lacks, with their own times; of two of a step the first.

        Raises what MLflow raises; then some may be written, and the same call again writes the others.
        """
        try:
            lacking = self._lacking(run, points)
            self._tracker.log_points(run, lacking)
        except BaseException:
            self._known.pop(run, None)  # nobody knows what of it arrived
            raise
        for name, _, step, _ in lacking:
            self._known[run][name].add(step)

    def _lacking(self, run: str, points: Sequence[Point]) -> list[Point]:
        known = self._known.setdefault(run, {})
        found: dict[tuple[str, int], Point] = {}
        for point in points:
            name, _, step, _ = point
            if name not in known:
                known[name] = self._tracker.steps(run, name)
            if step not in known[name]:
                found.setdefault((name, step), point)
        return list(found.values())
