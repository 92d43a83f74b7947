"""Metrics of a training worker on their way to MLflow. Imports it only to know its exception."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.tracking.runs import Tracker

_log = logging.getLogger(__name__)


class MetricBuffer:
    """Metrics of one training worker, written every few seconds. For rank 0 only.

    A store that does not answer costs no training: the points stay here and the next ``add`` tries again.
    ``flush`` raises instead, so flush before a checkpoint is committed: what a resumed run finds logged then
    reaches at least as far as what it resumes from.

    Args:
        tracker: made in this process from the address it was sent.
        run_id: the stage's run.
        every_seconds: longest time that points wait.
        after: steps up to and including this one are known (``Tracker.last_step``) and left out.
    """

    def __init__(self, tracker: Tracker, run_id: str, *, every_seconds: float = 5.0, after: int | None = None) -> None:
        self._tracker = tracker
        self._run_id = run_id
        self._every_seconds = every_seconds
        self._after = -1 if after is None else after
        self._points: list[tuple[str, float, int, int]] = []
        self._written = time.monotonic()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of ``step``; written with a later call, or at ``flush``."""
        from mlflow.exceptions import MlflowException

        if step <= self._after:
            return
        now = int(time.time() * 1000)
        self._points += [(name, float(value), step, now) for name, value in values.items()]
        if time.monotonic() - self._written < self._every_seconds:
            return
        try:
            self.flush()
        except MlflowException as error:
            self._written = time.monotonic()
            _log.warning("%d metrics wait, tracking failed: %s", len(self._points), str(error).splitlines()[0])

    def flush(self) -> None:
        """Write everything now. Raises MLflow's exception when that fails; nothing is lost, and it may be repeated."""
        if self._points:
            self._tracker.log_points(self._run_id, self._points)
        self._points = []
        self._written = time.monotonic()
