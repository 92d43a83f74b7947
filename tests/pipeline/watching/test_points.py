"""The points of a curve: stored once, tracked once, in a real MLflow store."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import open_storage
from pipeline.tracking.runs import Tracker
from pipeline.trained_nodes import Tracking
from pipeline.watching.points import Curve, CurveLog, Point

POINT = Point(
    step=20, below={"base": 15}, fid=3.5, kid=0.25, accuracy=0.5, samples=64, reference=100, seconds=1.0,
    features="classifier", labels="uniform",
)  # fmt: skip


def test_points_come_back_by_step_and_one_step_has_one_point(tmp_path: Path) -> None:
    curve = Curve(open_storage(tmp_path), "during/sr.jsonl")
    assert curve.points() == []
    earlier = replace(POINT, step=10, fid=None)
    for point in (POINT, earlier, replace(POINT, kid=0.5)):
        curve.add(point)
    assert curve.points() == [earlier, replace(POINT, kid=0.5)]
    assert len(curve.storage.read(curve.key).splitlines()) == 2


def test_a_refused_fid_is_absent_from_the_metrics() -> None:
    metrics = {"during_kid": 0.25, "during_accuracy": 0.5, "during_below_base": 15.0}
    assert replace(POINT, fid=None).metrics() == metrics
    assert POINT.metrics() == metrics | {"during_fid": 3.5}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    tracker = Tracker(f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")
    opened = tracker.open_experiment("curves")
    return Tracking(tracker.uri, {"sr": tracker.run(opened, name="train/sr", kind="stage", key="sr")})


def test_each_point_is_tracked_once_however_often_it_is_told(tracking: Tracking) -> None:
    from mlflow.tracking import MlflowClient

    later = replace(POINT, step=40, kid=0.125)
    CurveLog(tracking).add("sr", POINT)
    resumed = CurveLog(tracking)
    resumed.add("sr", POINT)
    resumed.add("sr", POINT, later)
    client = MlflowClient(tracking_uri=tracking.uri)

    def history(name: str) -> list[tuple[int, float]]:
        return [(metric.step, metric.value) for metric in client.get_metric_history(tracking.runs["sr"], name)]

    assert history("during_kid") == [(20, 0.25), (40, 0.125)]
    assert history("during_below_base") == [(20, 15.0), (40, 15.0)]
    assert history("during_fid") == [(20, 3.5), (40, 3.5)]


def test_a_store_that_fails_costs_a_warning(tracking: Tracking, caplog: pytest.LogCaptureFixture) -> None:
    nowhere: Any = Tracking(tracking.uri, {"sr": "0" * 32})
    with caplog.at_level(logging.WARNING):
        CurveLog(nowhere).add("sr", POINT)
    assert "scores of train/sr are stored but not tracked" in caplog.text
    CurveLog(None).add("sr", POINT)
