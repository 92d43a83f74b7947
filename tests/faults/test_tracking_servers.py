"""MLflow's server that is killed, refuses or never answers while stages train: no metric missing, none doubled, none of
another time.

Real trainings, real servers. Each protection is also switched off, which must show.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.storage import open_storage
from pipeline.tracking import forwarding
from pipeline.tracking.forwarding import Forwarder
from pipeline.tracking.journal import Journal, points_of
from pipeline.tracking.metric_buffer import MetricBuffer
from pipeline.tracking.outages import connect, unavailable
from pipeline.tracking.runs import Tracker

pytestmark = pytest.mark.faults
WHEN = 1_700_000_000_000
TRAINER = """
import json, sys
from pipeline import stage_run
from pipeline.tracking.metric_buffer import MetricBuffer
from pipeline.worker_settings import LoopSettings
stage_run.MetricBuffer = lambda journal: MetricBuffer(journal, every_seconds=0.02)
run = stage_run.StageRun(LoopSettings(**json.loads(sys.argv[1])), rank=0, world=1, device="cpu")
run.resume()
run.train(lambda entry, metrics: print(metrics["step"], flush=True))
"""


@pytest.fixture(scope="module")
def server(mlflow_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mlflow_server(tmp_path_factory.mktemp("server"))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client repeats nothing by itself, so that every fault is ours to answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")


def nothing_known(tracker: Tracker, run: str, name: str) -> set[int]:
    """Instead of ``Tracker.steps``: a sender that does not ask what is there."""
    return set()


def test_a_server_that_is_killed_in_mid_training_and_comes_back_when_it_is_over(
    server: Any, training: Any, straight_to_mlflow: Any, monkeypatch: pytest.MonkeyPatch, record_figure: Any
) -> None:
    whole, forgetful, lossy = (training(server.uri, key) for key in ("whole", "forgetful", "lossy"))
    for each in (whole, forgetful, lossy):
        each.train(lost_at=8)
        each.forward()
    server.kill()
    for each in (whole, forgetful):
        each.train(lost_at=16)  # takes step 8 again, of which MLflow knows
        each.train()  # takes step 16 again, of which the journal knows
        each.assert_journalled()
    with pytest.raises(MlflowException) as caught:
        whole.forward()
    assert unavailable(caught.value)
    with monkeypatch.context() as off:
        off.setattr(Journal, "append", straight_to_mlflow(server.uri))
        lossy.train()
    server.start()
    whole.forward()
    assert whole.missing_and_doubled() == (0, 0)
    whole.assert_whole()
    points = whole.metrics * whole.steps
    record_figure(10, "server killed in mid-training, back when it is over", f"0 of {points} points missing, 0 doubled")
    with monkeypatch.context() as off:
        off.setattr(Tracker, "steps", nothing_known)
        forgetful.forward()
    assert forgetful.missing_and_doubled() == (0, forgetful.metrics)  # step 8, taken twice
    lossy.forward()
    missing, doubled = lossy.missing_and_doubled()
    assert (missing, doubled) == (lossy.metrics * (lossy.steps - 8), 0)
    record_figure(10, "the same, metrics straight to MLflow", f"{missing} of {points} missing", protected=False)


def test_a_worker_that_is_killed_while_the_server_is_down(server: Any, training: Any, record_figure: Any) -> None:
    """SIGKILL, so nothing is tidied up; what was journalled before it keeps its times."""
    killed = training(server.uri, "killed")
    for end in (False, True):
        worker = subprocess.Popen(
            [sys.executable, "-c", TRAINER, json.dumps(killed.settings)], cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert worker.stdout is not None
        if not end:
            while float(worker.stdout.readline()) < killed.steps // 3:
                pass
            worker.send_signal(signal.SIGKILL)
        worker.stdout.read()
        assert worker.wait() == (0 if end else -signal.SIGKILL)
    for _, batch in killed.journal.batches():
        for _, _, step, when in batch:
            killed.times.setdefault(step, when)
    killed.forward()
    killed.assert_whole()
    record_figure(10, "server down and worker killed", f"all {killed.metrics * killed.steps} points, first times kept")


@pytest.mark.parametrize(
    ("asks", "keeps_times", "doubles"),
    [(True, True, False), (False, True, False), (True, False, False), (False, False, True)],
)
def test_refusals_and_lost_answers(
    server: Any, proxy_before: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    asks: bool, keeps_times: bool, doubles: bool, record_figure: Any,
) -> None:  # fmt: skip
    """30 % are answered 500 or 503, of the rest 30 % are done and never answered. Two things keep points from being
    doubled, each alone: that what is there is asked, and that a point keeps its time."""
    key = f"refusals-{asks}-{keeps_times}"
    proxy, tracker = proxy_before(server.uri), Tracker(server.uri)
    run = tracker.run(tracker.open_experiment("faults"), name="train/base", kind="stage", key=key)
    journal = Journal(open_storage(tmp_path), run)
    for step in range(30):
        journal.append(points_of(step, {"loss": 0.5, "rate": 0.25}, WHEN + step))
    if not asks:
        monkeypatch.setattr(Tracker, "steps", nothing_known)
    if not keeps_times:
        log, clock = Tracker.log_points, iter(range(WHEN, sys.maxsize))
        monkeypatch.setattr(
            Tracker,
            "log_points",
            lambda self, run, points: log(self, run, [(n, v, s, next(clock)) for n, v, s, _ in points]),
        )
    proxy.faults.unavailable, proxy.faults.reset, proxy.faults.refusals = 0.3, 0.3, (500, 503)
    forwarder, failures = Forwarder(proxy.endpoint, journal.storage, [run]), 0
    while journal.count():
        try:
            forwarder.forward()
        except MlflowException as error:
            if not unavailable(error):
                raise
            failures += 1
    assert failures > 10
    monkeypatch.undo()
    doubled = 0
    for name in ("loss", "rate"):
        found = sorted((point.step, point.timestamp) for point in tracker.client.get_metric_history(run, name))
        assert {step for step, _ in found} == set(range(30))
        assert (len(found) > 30) == doubles
        assert not keeps_times or found == [(step, WHEN + step) for step in range(30)]
        doubled += len(found) - 30
    if asks == keeps_times:
        told = f"of 60 points 0 missing, {doubled} doubled after {failures} failures"
        record_figure(10, "30 % of answers 5xx, 30 % of the rest never given", told, protected=asks)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_never_answers_holds_up_nothing(
    silent: str,
    server: Any,
    training: Any,
    straight_to_mlflow: Any,
    monkeypatch: pytest.MonkeyPatch,
    record_figure: Any,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(forwarding, "PATIENCE", 0.5)
    with pytest.raises(UserError, match=r"^tracking.uri http://127.0.0.1:\d+ cannot be used: .*timed out"):
        connect(silent)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "2"
    one = training(server.uri, "silence")
    forwarder = Forwarder(silent, open_storage(one.store), [one.run], every_seconds=0.01).start()
    one.train()
    with pytest.raises((TimeoutError, MlflowException)) as caught:  # of a thread that waits for it, or for its turn
        forwarder.close()
    assert unavailable(caught.value)
    one.assert_journalled()
    one.forward()
    one.assert_whole()

    def seconds_of_a_commit() -> float:
        with MetricBuffer(one.journal, every_seconds=1e6) as buffer:
            buffer.add(1, {"loss": 1.0}, WHEN)
            started = time.monotonic()
            buffer.flush()
            return time.monotonic() - started

    kept = seconds_of_a_commit()
    assert kept < 2
    record_figure(
        10, "server that never answers (client gives up after 2 s)", f"a commit waits {1000 * kept:.0f} ms for it"
    )
    monkeypatch.setattr(Journal, "append", straight_to_mlflow(silent))
    sent = seconds_of_a_commit()
    assert sent >= 2
    record_figure(10, "the same, metrics straight to MLflow", f"{sent:.1f} s", protected=False)
