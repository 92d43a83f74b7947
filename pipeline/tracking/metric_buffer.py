"""Metrics of a training worker on their way to the journal: a thread writes them, training never waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from types import TracebackType

from pipeline.tracking.journal import Journal, Point, points_of

log = logging.getLogger(__name__)


class MetricBuffer:
    """Metrics of one training worker, journalled every few seconds inside the block of a ``with``. For rank 0 only.

    ``flush`` before a checkpoint is committed: then what stands in the checkpoint's history stands in the journal too,
    and no more waits in memory than is measured from one commit to the next.
    """

    def __init__(self, journal: Journal, *, every_seconds: float = 5.0) -> None:
        self._journal = journal
        self._every_seconds = every_seconds
        self._points: list[Point] = []
        self._writing, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> MetricBuffer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        try:
            self.flush()
        except Exception as failure:
            if error is None:
                raise
            log.warning("%d metrics could not be kept: %s", len(self._points), failure)

    def add(self, step: int, values: Mapping[str, float], when: int) -> None:
        """Take the values of ``step``, measured at ``when`` (unix time in ms). Writes nothing itself."""
        self._points += points_of(step, values, when)  # one operation: the thread takes from the front meanwhile

    def flush(self) -> None:
        """Journal everything now. Raises what the store raises; nothing is lost then, and it may be repeated."""
        with self._writing:
            count = len(self._points)
            if count:
                self._journal.append(self._points[:count])
                del self._points[:count]

    def _run(self) -> None:
        while not self._over.wait(self._every_seconds):
            try:
                self.flush()
            except Exception as error:
                log.warning("%d metrics wait, they could not be kept yet: %s", len(self._points), error)
