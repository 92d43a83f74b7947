"""Row 4: results in a bucket whose store refuses, hangs, breaks off or lies: the same bits, or one sentence.

A real store (Ceph) behind a proxy that does these things. Waits between tries are shortened to hundredths of seconds
where nothing is said of time.
"""

from __future__ import annotations

import functools
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline import s3_requests, s3_storage
from pipeline.commits import OwnershipLost
from pipeline.objects import StoreError
from pipeline.s3 import S3Objects
from pipeline.s3_requests import S3Requests
from pipeline.s3_storage import COPIES, S3Storage
from pipeline.storage import open_storage
from pipeline.tracking.journal import Journal

pytestmark = [pytest.mark.faults, pytest.mark.s3]

STEPS, INTERVAL, SEED = 12, 3, 20261122
FAULTS: dict[str, dict[str, float]] = {
    "30 % of requests answered 503": {"unavailable": 0.3},
    "answers 50 ms late": {"delay": 0.05},
    "5 % of requests never answered": {"hang": 0.05, "hang_seconds": 5.0},
    "30 % of answers cut": {"cut": 0.3, "cut_after": 7},
    "30 % of connections reset after the store did what was asked": {"reset": 0.3},
    "30 % of uploads swallowed": {"swallow": 0.3},
    "30 % of uploads altered on their way": {"flip_sent": 0.3},
    "all of these, 5 % each": dict.fromkeys(("unavailable", "cut", "reset", "swallow", "flip_sent"), 0.05),
}


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_requests, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(s3_requests, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(s3_storage, "S3Requests", functools.partial(S3Requests, read_timeout=1.0))


@pytest.fixture
def place(s3_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A store in a new bucket, and a folder of this machine."""
    monkeypatch.setenv(COPIES, str(tmp_path / "copies"))
    return f"s3://{s3_store.bucket()}/store", tmp_path


def settings_of(tiny: Any, place: tuple[str, Path], **changes: Any) -> Any:
    asked = {"steps": STEPS, "log_every": INTERVAL, "progress": "progress/sr", "tracking_run": "of-mlflow"}
    return tiny.settings(place[1], storage=place[0], **(asked | changes))


def interrupted(tiny: Any, settings: Any, after: int) -> None:
    """Train until so many commits are made, and leave as one that is killed does."""
    seen: list[object] = []

    def report(entry: object, metrics: object) -> None:
        seen.append(entry)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.run(settings).train(report)


def set_faults(proxy: Any, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(proxy.faults, name, value)


def well(proxy: Any) -> None:
    set_faults(proxy, dict.fromkeys(("unavailable", "delay", "hang", "cut", "reset", "swallow", "flip_sent"), 0.0))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_ends_in_the_same_bits(
    fault: str,
    tiny: Any,
    twin: Callable[[int], Any],
    fault_proxy: Any,
    place: tuple[str, Path],
    short_waits: None,
    repeats: int,
    monkeypatch: pytest.MonkeyPatch,
    record_figure: Any,
) -> None:
    """On one machine to the second commit, on another, which has no copies, to the end."""
    rounds, straight, seconds = max(1, repeats // 30), twin(STEPS), 0.0
    for number in range(rounds):
        where = (f"{place[0]}-{number}", place[1])
        settings = settings_of(tiny, where)
        fault_proxy.faults.lot = random.Random(SEED + number)
        set_faults(fault_proxy, FAULTS[fault])
        began = time.monotonic()
        interrupted(tiny, settings, after=2)
        monkeypatch.setenv(COPIES, str(place[1] / f"copies-of-another-{number}"))
        tiny.train(settings)
        seconds += time.monotonic() - began
        well(fault_proxy)
        found = tiny.commits(where[0])
        assert dict(found) == {step: straight[step] for step in (3, 6, 9, 12)}, f"seed {SEED + number}"
        points = {point for _, batch in Journal(open_storage(where[0]), "of-mlflow").batches() for point in batch}
        assert {step for name, _, step, _ in points if name == "loss"} == {3, 6, 9, 12}
    asked = len(fault_proxy.faults.seen)
    record_figure(
        4,
        fault,
        f"{rounds} of {rounds} trainings in a bucket end in the twin's bits, no metric is lost: {asked} requests in "
        f"{seconds:.0f} s; seed {SEED}",
    )


def test_without_tries_the_same_fault_ends_a_training(
    tiny: Any,
    fault_proxy: Any,
    place: tuple[str, Path],
    short_waits: None,
    monkeypatch: pytest.MonkeyPatch,
    record_figure: Any,
) -> None:
    monkeypatch.setattr(s3_storage, "ATTEMPTS", 1)
    fault_proxy.faults.unavailable = 0.3
    with pytest.raises(StoreError, match="gave up after 1 attempt, the last: HTTP 503 SlowDown"):
        tiny.train(settings_of(tiny, place))
    well(fault_proxy)
    committed = len(tiny.commits(place[0]))
    assert committed < STEPS // INTERVAL
    record_figure(4, "30 % of requests answered 503", f"ends after {committed} of 4 commits", protected=False)


def test_a_store_that_stays_away_is_one_sentence_and_training_goes_on_when_it_is_back(
    tiny: Any,
    twin: Callable[[int], Any],
    fault_proxy: Any,
    place: tuple[str, Path],
    short_waits: None,
    record_figure: Any,
) -> None:
    settings, told = settings_of(tiny, place), []
    for only in ("", "PUT .*net.safetensors", "PUT .*log/", "GET .*prefix="):
        run = tiny.run(settings)

        def fail(entry: Any, metrics: Any, only: str = only) -> None:
            set_faults(fault_proxy, {"unavailable": 1.0, "only": only})

        with pytest.raises(StoreError) as caught:
            run.train(fail)
        well(fault_proxy)
        fault_proxy.faults.only = ""
        sentence = str(caught.value)
        assert sentence.startswith(f"{place[0]}/")
        assert sentence.endswith("gave up after 16 attempts, the last: HTTP 503 SlowDown")
        assert "\n" not in sentence
        told.append(sentence)
        if run.state.step == STEPS:
            break
    tiny.train(settings)
    straight = twin(STEPS)
    assert all(hashes == straight[step] for step, hashes in tiny.commits(place[0]))
    assert tiny.commits(place[0])[-1][0] == STEPS
    record_figure(
        4, "store away for good", f"{len(told)} of {len(told)} one sentence with the key; then it goes on, same bits"
    )


@pytest.mark.slow
def test_a_store_that_is_away_for_a_minute_is_waited_for(
    tiny: Any, twin: Callable[[int], Any], fault_proxy: Any, place: tuple[str, Path], record_figure: Any
) -> None:
    """With the waits as they are."""
    run, seconds, began = tiny.run(settings_of(tiny, place)), 60.0, time.monotonic()

    def away(entry: Any, metrics: Any) -> None:
        if run.state.step == 2 * INTERVAL:
            fault_proxy.faults.unavailable = 1.0
            threading.Timer(seconds, lambda: well(fault_proxy)).start()

    run.train(away)
    straight = twin(STEPS)
    assert dict(tiny.commits(place[0])) == {step: straight[step] for step in (3, 6, 9, 12)}
    took = time.monotonic() - began
    assert took > seconds
    record_figure(4, f"store away for {seconds:.0f} s", f"the training ends well, after {took:.0f} s")


def test_progress_that_cannot_be_told_holds_nothing_up(
    tiny: Any, fault_proxy: Any, place: tuple[str, Path], short_waits: None, record_figure: Any
) -> None:
    settings = settings_of(tiny, place, log_every=1, checkpoint_seconds=1e9, tracking_run=None)
    run = tiny.run(settings)
    set_faults(fault_proxy, {"hang": 1.0, "hang_seconds": 20.0, "only": "PUT .*progress/"})
    began = time.monotonic()
    run.train(lambda entry, metrics: None)
    took = time.monotonic() - began
    hung = sum("progress/" in one for one in fault_proxy.faults.seen)
    assert (hung, run.state.step) == (1, STEPS)
    record_figure(
        4, "progress is never answered", f"asked {hung} time of {STEPS}, {took:.1f} s in all; training ends well"
    )


def test_progress_that_is_depended_on_ends_a_training(
    tiny: Any,
    fault_proxy: Any,
    place: tuple[str, Path],
    short_waits: None,
    monkeypatch: pytest.MonkeyPatch,
    record_figure: Any,
) -> None:
    monkeypatch.setattr(S3Storage, "tell", S3Storage.put)
    monkeypatch.setattr(s3_storage, "ATTEMPTS", 2)
    set_faults(fault_proxy, {"hang": 1.0, "hang_seconds": 5.0, "only": "PUT .*progress/"})
    with pytest.raises(StoreError, match=r"progress/sr at .*no answer in time"):
        tiny.train(settings_of(tiny, place))
    record_figure(4, "progress is never answered", "the training ends", protected=False)


def test_without_a_look_whose_bytes_there_are_a_lost_answer_is_taken_for_another_owner(
    tiny: Any,
    fault_proxy: Any,
    place: tuple[str, Path],
    short_waits: None,
    monkeypatch: pytest.MonkeyPatch,
    record_figure: Any,
) -> None:
    def create(self: S3Objects, name: str, data: bytes) -> bool:
        where = self._where(name)

        def act(client: Any) -> bool:
            try:
                client.put_object(**where, IfNoneMatch="*", Body=data)
            except ClientError as error:
                if error.response["Error"]["Code"] != "PreconditionFailed":
                    raise
                return False
            return True

        return self.requests.tried(self._told(name), act)

    monkeypatch.setattr(S3Objects, "create", create)
    once = functools.partial(S3Requests, sleep=lambda seconds: well(fault_proxy))
    monkeypatch.setattr(s3_storage, "S3Requests", once)
    run = tiny.run(settings_of(tiny, place))
    with pytest.raises(OwnershipLost):
        run.train(lambda *_: set_faults(fault_proxy, {"reset": 1.0, "only": "PUT .*log/"}))
    assert run.state.step == 2 * INTERVAL
    record_figure(4, "answer lost of the entry of a commit", "OwnershipLost, with no other owner", protected=False)


def test_a_storage_travels_to_other_processes(place: tuple[str, Path]) -> None:
    storage = open_storage(place[0])
    folder = storage.new_folder("runs/x/step-1")
    (folder / "weights").write_bytes(b"weights")
    files = storage.publish("runs/x/step-1")
    storage.tell("progress/x", b"1")
    script = (
        "import pickle, sys\n"
        "storage, files = pickle.load(sys.stdin.buffer)\n"
        "assert (storage.fetch('runs/x/step-1', files) / 'weights').read_bytes() == b'weights'\n"
        "assert storage.put_new('log/1', b'of the other process')\n"
        "storage.tell('progress/x', b'2')\n"
    )
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps((storage, files)), check=True)
    assert storage.read("log/1") == b"of the other process"
    assert not storage.put_new("log/1", b"of this one")
    assert storage.read("progress/x") == b"2"
