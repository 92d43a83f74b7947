"""From a training to MLflow: the journal in the store, who reads it, and each step once. A real SQLite store."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipeline.storage import LocalStorage, open_storage
from pipeline.tracking.forwarding import Forwarder
from pipeline.tracking.journal import Journal, Point, points_of
from pipeline.tracking.metric_buffer import MetricBuffer
from pipeline.tracking.runs import Tracker
from pipeline.tracking.sending import Sender

WHEN = 1_700_000_000_000  # long ago, so that a time that is made anew shows


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """One database for the module: making it takes seconds."""
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")


@pytest.fixture(scope="module")
def experiment(tracker: Tracker) -> str:
    return tracker.open_experiment("sending")


@pytest.fixture
def run(tracker: Tracker, experiment: str, request: pytest.FixtureRequest) -> str:
    return tracker.run(experiment, name="train/sr", kind="stage", key=request.node.name)


@pytest.fixture
def journal(tmp_path: Path, run: str) -> Journal:
    return Journal(open_storage(tmp_path), run)


def points(*steps: int, later: int = 0) -> list[Point]:
    return [point for step in steps for point in points_of(step, {"loss": 1 / step}, WHEN + step + later)]


def history(tracker: Tracker, run: str, name: str = "loss") -> list[tuple[int, float, int]]:
    found = tracker.client.get_metric_history(run, name)
    return sorted((point.step, point.value, point.timestamp) for point in found)


def expected(*steps: int) -> list[tuple[int, float, int]]:
    return [(step, 1 / step, WHEN + step) for step in steps]


def test_a_journal_gives_back_what_it_was_given_in_order(tmp_path: Path) -> None:
    mine, other = (Journal(open_storage(tmp_path), run) for run in ("a", "b"))
    mine.append(points(1, 2))
    mine.append(points(3))
    other.append(points(9))
    batches = list(mine.batches())
    assert [found for _, found in batches] == [points(1, 2), points(3)]
    mine.remove(batches[0][0])
    assert (mine.count(), other.count()) == (1, 1)
    assert Journal(mine.storage, "nobody").count() == 0


def test_a_batch_that_was_sent_by_somebody_else_meanwhile_is_left_out(tmp_path: Path) -> None:
    journal = Journal(open_storage(tmp_path), "run")
    for step in (1, 2):
        journal.append(points(step))
    batches = journal.batches()
    next(batches)
    journal.remove(journal.storage.list(journal.key)[1])
    assert list(batches) == []


def test_metrics_are_journalled_by_themselves_and_by_the_end_of_the_block(journal: Journal) -> None:
    with MetricBuffer(journal, every_seconds=0.02) as buffer:
        buffer.add(1, {"loss": 1.0}, WHEN + 1)
        deadline = time.monotonic() + 10
        while not journal.count():
            assert time.monotonic() < deadline, "nobody wrote"
            time.sleep(0.01)
    with MetricBuffer(journal, every_seconds=1e6) as buffer:
        buffer.add(2, {"loss": 1 / 2}, WHEN + 2)
        assert journal.count() == 1
    assert [point for _, batch in journal.batches() for point in batch] == points(1, 2)


@dataclass(frozen=True)
class Slow(LocalStorage):
    """A store that takes its time, or fails."""

    gate: threading.Event | None = None

    def put_new(self, key: str, data: bytes) -> bool:
        assert self.gate is not None
        if not self.gate.wait(0.2):
            raise OSError("the disk is full")
        return super().put_new(key, data)


def test_a_store_that_hangs_or_fails_holds_up_no_step_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    journal = Journal(Slow(tmp_path, gate=gate), "run")
    longest = 0.0
    with MetricBuffer(journal, every_seconds=0.01) as buffer:
        for step in range(1, 60):
            before = time.perf_counter()
            buffer.add(step, {"loss": 1 / step}, WHEN + step)
            longest = max(longest, time.perf_counter() - before)
            time.sleep(0.01)
        assert "they could not be kept yet: the disk is full" in caplog.text
        with pytest.raises(OSError, match="full"):
            buffer.flush()
        gate.set()
    assert longest < 0.1  # a write takes 0.2
    assert [point for _, batch in journal.batches() for point in batch] == points(*range(1, 60))


def test_what_ends_training_is_not_hidden_by_a_store_that_fails(tmp_path: Path) -> None:
    journal = Journal(Slow(tmp_path, threading.Event()), "run")

    def train() -> None:
        with MetricBuffer(journal, every_seconds=1e6) as buffer:
            buffer.add(1, {"loss": 1.0}, WHEN)
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        train()


def test_steps_that_are_taken_again_keep_their_first_values_and_times(tracker: Tracker, run: str) -> None:
    first = Sender(tracker)
    first.send(run, points(10, 20, 30))
    first.send(run, points(30, 40, later=5000))
    resumed = Sender(tracker)
    resumed.send(run, points(20, 30, 40, 50, later=9000))
    assert history(tracker, run) == [*expected(10, 20, 30), (40, 1 / 40, WHEN + 5040), (50, 1 / 50, WHEN + 9050)]


def test_a_gap_is_filled_and_another_metric_is_not_mistaken_for_it(tracker: Tracker, run: str) -> None:
    Sender(tracker).send(run, points(10, 30))
    Sender(tracker).send(run, [*points(10, 20, 30), ("rate", 0.5, 20, WHEN)])
    assert history(tracker, run) == expected(10, 20, 30)
    assert history(tracker, run, "rate") == [(20, 0.5, WHEN)]


class Unanswered:
    """Has what a tracker writes arrive, and its answer lost."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.down = tracker, True

    def steps(self, run: str, name: str) -> set[int]:
        return self.tracker.steps(run, name)

    def log_points(self, run: str, found: Sequence[Point]) -> None:
        self.tracker.log_points(run, list(found))
        if self.down:
            raise MlflowException("API request to nowhere failed")


def test_a_write_whose_answer_is_lost_is_repeated_without_doubles(tracker: Tracker, run: str) -> None:
    lost: Any = Unanswered(tracker)
    sender = Sender(lost)
    with pytest.raises(MlflowException):
        sender.send(run, points(10, 20))
    lost.down = False
    sender.send(run, points(10, 20, later=100))  # of a step that was taken again
    sender.send(run, points(30))
    assert history(tracker, run) == expected(10, 20, 30)


def test_the_same_point_written_twice_is_one(tracker: Tracker, run: str) -> None:
    """What MLflow promises, and what holds when a write is repeated while the first is still under way."""
    for written in (points(10, 20), points(20, 30)):
        tracker.log_points(run, written)
    assert history(tracker, run) == expected(10, 20, 30)
    tracker.log_points(run, points(20, later=1))
    assert len(history(tracker, run)) == 4  # of another time, it is another: so nothing else would do


def test_what_the_journals_hold_is_sent_and_removed(tracker: Tracker, journal: Journal, run: str) -> None:
    forwarder = Forwarder(tracker.uri, journal.storage, every_seconds=0.02).start()
    forwarder.add(run)
    journal.append(points(10))
    deadline = time.monotonic() + 60
    while journal.count():
        assert time.monotonic() < deadline, "nobody sent"
        time.sleep(0.02)
    assert history(tracker, run) == expected(10)
    journal.append(points(20))
    forwarder.close()
    assert forwarder.kept() == 0
    assert history(tracker, run) == expected(10, 20)


def test_two_commands_that_send_the_same_journal_double_nothing(tracker: Tracker, journal: Journal, run: str) -> None:
    journal.append(points(10, 20))
    kept = {name: journal.storage.read(f"{journal.key}/{name}") for name, _ in journal.batches()}
    for _ in range(2):
        Forwarder(tracker.uri, journal.storage, [run]).forward()
        for name, data in kept.items():  # as one finds it that was killed before it removed what it had sent
            journal.storage.put(f"{journal.key}/{name}", data)
    assert history(tracker, run) == expected(10, 20)


def test_a_run_that_was_deleted_keeps_no_other_from_its_metrics(
    tracker: Tracker, journal: Journal, run: str, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = Journal(journal.storage, "0" * 32)
    for one in (nobody, journal):
        one.append(points(10))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            Forwarder(tracker.uri, journal.storage, [nobody.run, run]).forward()
    assert history(tracker, run) == expected(10)
    assert (nobody.count(), journal.count()) == (1, 0)
    assert f"run {nobody.run} are not taken by MLflow" in caplog.text


def test_a_batch_is_a_list_of_plain_json(journal: Journal) -> None:
    journal.append(points(4))
    (name,) = journal.storage.list(journal.key)
    assert json.loads(journal.storage.read(f"{journal.key}/{name}")) == [["loss", 0.25, 4, WHEN + 4]]
