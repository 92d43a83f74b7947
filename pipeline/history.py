"""The metrics of a training run as its checkpoints hold them, and as points for MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.tracking.journal import Point, points_of


def read_history(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run up to a checkpoint or a result in ``folder``, one entry per logged step.

    Beside the metrics an entry has ``step`` and ``time`` (unix time in ms; histories of earlier versions have none).
    """
    history: list[dict[str, float]] = json.loads((folder / "history.json").read_text())
    return history


def history_points(history: Sequence[Mapping[str, float]]) -> list[Point]:
    """A run's history as points, each of the time at which it was measured; now, where that was not kept."""
    return [point for entry in history for point in _points(entry)]


def _points(entry: Mapping[str, float]) -> Iterator[Point]:
    metrics = {name: value for name, value in entry.items() if name not in ("step", "time")}
    yield from points_of(int(entry["step"]), metrics, int(entry.get("time", 1000 * time.time())))
