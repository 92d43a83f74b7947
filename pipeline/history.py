"""The metrics of a training run as its checkpoints hold them, and their way to MLflow."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.tracking.metric_buffer import MetricBuffer
from pipeline.tracking.runs import Tracker


def read_history(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run up to a checkpoint or a result in ``folder``, one entry per logged step."""
    history: list[dict[str, float]] = json.loads((folder / "history.json").read_text())
    return history


def open_buffer(uri: str, run_id: str) -> MetricBuffer:
    """A buffer that leaves out what the run already has."""
    tracker = Tracker(uri)
    return MetricBuffer(tracker, run_id, after=tracker.last_step(run_id, "loss"))


def replay(buffer: MetricBuffer, history: list[dict[str, float]]) -> None:
    """Log a run's history again, so that a run which was begun under another parent is whole under this one."""
    for entry in history:
        buffer.add(int(entry["step"]), {key: value for key, value in entry.items() if key != "step"})
