"""The scores of a stage while it trains: a file of JSON lines in the store, and their way to MLflow.

The file is what is true: a step that stands in it is not scored again, by whichever command, and a run of MLflow that
lacks points is given them from there. It is one file per stage, training run and way of scoring, so that all points
of a curve mean the same.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipeline.storage import Storage

if TYPE_CHECKING:
    from pipeline.tracking.journal import Point as MetricPoint
    from pipeline.tracking.sending import Sender
    from pipeline.trained_nodes import Tracking

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """Scores of chained images of one stage at one step of its training."""

    step: int
    below: Mapping[str, int]  # steps of the stages below whose weights were sampled, by name, base first
    fid: float | None  # None: refused, there were no more samples than features
    kid: float
    accuracy: float  # the share of samples that the judge sees the asked class in
    samples: int
    reference: int  # real images that they were compared with
    seconds: float  # what drawing and scoring took
    features: str  # of FID and KID: "classifier", the one trained on the data set, whatever else scores in the end
    labels: str  # how the classes of the samples were drawn: uniform or histogram

    def metrics(self) -> dict[str, float]:
        """As MLflow shows them: during_fid and during_kid (in the features of the data set's own classifier),
        during_accuracy, and during_below_<stage> for their steps."""
        found = {"during_kid": self.kid, "during_accuracy": self.accuracy}
        if self.fid is not None:
            found["during_fid"] = self.fid
        return found | {f"during_below_{name}": float(step) for name, step in self.below.items()}


@dataclass(frozen=True)
class Curve:
    """The points of one stage, in the file ``key`` of the store. One writer at a time."""

    storage: Storage
    key: str

    def points(self) -> list[Point]:
        """By rising step."""
        if not self.storage.exists(self.key):
            return []
        lines = self.storage.read(self.key).decode().splitlines()
        return sorted((Point(**json.loads(line)) for line in lines), key=lambda point: point.step)

    def add(self, point: Point) -> None:
        """Store ``point`` beside the others, in the place of one of its step."""
        points = [other for other in self.points() if other.step != point.step] + [point]
        lines = [json.dumps(asdict(each)) for each in sorted(points, key=lambda each: each.step)]
        self.storage.put(self.key, ("\n".join(lines) + "\n").encode())


class CurveLog:
    """MLflow's side of the curves: writes what a stage's run does not have yet, and never fails."""

    def __init__(self, tracking: Tracking | None) -> None:
        self._tracking = tracking
        self._waiting: dict[str, list[MetricPoint]] = {}
        self._sender: Sender | None = None

    def add(self, stage: str, *points: Point) -> None:
        """Log points of ``stage``; what MLflow does not take now waits for the next."""
        if self._tracking is None or stage not in self._tracking.runs or not points:
            return
        from pipeline.tracking.journal import points_of
        from pipeline.tracking.runs import Tracker
        from pipeline.tracking.sending import Sender

        waiting, now = self._waiting.setdefault(stage, []), int(1000 * time.time())
        for point in points:
            waiting += points_of(point.step, point.metrics(), now)
        try:
            self._sender = self._sender or Sender(Tracker(self._tracking.uri))
            self._sender.send(self._tracking.runs[stage], waiting)
            waiting.clear()
        except Exception as error:
            log.warning("scores of train/%s are stored but not tracked: %s", stage, str(error).splitlines()[0])
