"""Row 1 under Ray Train: one of two workers killed at any moment, also right after it reported a checkpoint.

And row 21: the same group with all it stores, Ray's own files too, in a bucket whose store takes no chunked uploads.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.doctor.findings import Trouble
from pipeline.doctor.stores import CHECKSUMS, check_pyarrow, open_store, upload_by_pyarrow
from pipeline.s3_storage import COPIES

pytestmark = [pytest.mark.faults, pytest.mark.ray]

STEPS, INTERVAL, KILLS_PER_RUN, SEED = 150, 3, 5, 20261122
MOMENTS = ("right after a commit", "at a random moment", "at its start")


class Driver:
    """The process of ray_driver.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def begin(self, settings: Any, ledger: Path) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({**asdict(settings), "ledger": str(ledger)}) + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """How often it was begun; waits until it is done."""
        assert self.process.stdout
        for line in self.process.stdout:  # Ray says there what it thinks of killed workers
            if line.strip().isdigit():
                return int(line)
        raise AssertionError("the driver ended")

    def workers(self) -> list[psutil.Process]:
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found += [one] if "RayTrainWorker" in " ".join(one.cmdline()) else []
            except psutil.Error:  # it ended meanwhile
                continue
        return found


@contextmanager
def running_driver(log: Path, **environment: str) -> Iterator[Driver]:
    """With a cluster of its own in a folder of its own, whose sockets need a short path; nothing of it stays."""
    script = Path(__file__).with_name("ray_driver.py")
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as own, log.open("ab") as out:
        told = {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_TMPDIR": own, **environment}
        told |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
            text=True,
            env={**os.environ, **told},
        )
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n", log.read_text()
            yield Driver(process)
        finally:
            left = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
            for one in left:
                one.kill()
            process.wait()


def seen_once(tiny: Any, store: Path, ledger: Path) -> bool:
    """Whether committed steps saw, epoch for epoch, every example exactly once: both workers of a group together."""
    read: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    for line in ledger.read_text().splitlines():
        row = json.loads(line)
        read[row["group"], row["step"]] |= {int(position): example for position, example in row["examples"].items()}
    stream: list[int] = []
    done = 0
    for entry in tiny.log(store).entries():
        if entry.kind == "commit":
            group = int(entry.owner.rpartition(":")[2])  # the process of rank 0
            for step in range(done, entry.info["step"]):
                assert sorted(read[group, step]) == list(range(tiny.batch_size))
                stream += [read[group, step][position] for position in range(tiny.batch_size)]
            done = entry.info["step"]
    epochs = [stream[start : start + tiny.examples] for start in range(0, len(stream), tiny.examples)]
    whole = all(sorted(epoch) == list(range(tiny.examples)) for epoch in epochs[:-1])
    return whole and len(set(epochs[-1])) == len(epochs[-1])


def wait_until(condition: Any, driver: Driver, log: Path, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.002)


def committed(store: Path) -> int:
    folder = store / "runs/sr/log"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def kill_workers(driver: Driver, store: Path, log: Path, dice: random.Random, kills: int) -> tuple[list[str], float]:
    """Kill one of the two workers so many times: how each came, and the longest wait for the next commit."""
    told, waits = [], [0.0]
    while len(told) < kills:
        before, more = committed(store), dice.randint(2, 5)  # entries, of which the first is the new owner's
        how = MOMENTS[len(told) % len(MOMENTS)]
        if how == "at its start":
            wait_until(lambda: len(driver.workers()) == 2, driver, log)
            time.sleep(dice.uniform(0.0, 4.0))
        else:
            wait_until(lambda before=before, more=more: committed(store) >= before + more, driver, log)
            time.sleep(dice.uniform(0.0, 0.5) if how == "at a random moment" else 0.0)
        if not (alive := driver.workers()):
            continue
        dice.choice(sorted(alive, key=lambda one: one.pid)).kill()
        told.append(how)
        before, began = committed(store), time.monotonic()
        gone = [one.pid for one in alive]
        wait_until(lambda gone=gone: not any(one.pid in gone for one in driver.workers()), driver, log)
        wait_until(lambda before=before: committed(store) > before, driver, log)
        waits.append(time.monotonic() - began)
    return told, max(waits)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_workers_of_ray_train_end_in_the_same_bits(
    tiny: Any, tmp_path: Path, repeats: int, record_figure: Any
) -> None:
    """Twice undisturbed, which must agree, and then killed: 20 times in the long form of the matrix."""
    log, dice, kills = tmp_path / "log", random.Random(SEED), min(20, max(2, repeats // 5))
    told: list[str] = []
    longest, commits, runs, begun = 0.0, 0, 0, 0
    with running_driver(log) as driver:

        def begin(name: str) -> Path:
            (folder := tmp_path / name).mkdir()
            driver.begin(tiny.settings(folder, steps=STEPS, log_every=INTERVAL), folder / "ledger")
            return folder

        twins = []
        for number in range(2):
            folder = begin(f"twin-{number}")
            assert driver.end() == 1
            twins.append(tiny.commits(folder))
            assert seen_once(tiny, folder, folder / "ledger")
        assert twins[0] == twins[1], "unless twins agree, nothing that is killed means anything"
        straight = dict(twins[0])
        while len(told) < kills:
            folder = begin(f"killed-{len(told)}")
            how, wait = kill_workers(driver, folder, log, dice, min(KILLS_PER_RUN, kills - len(told)))
            begun += driver.end()
            found = tiny.commits(folder)
            assert all(hashes == straight[step] for step, hashes in found), f"{SEED=} {folder} {how}"
            assert found[-1][0] == STEPS
            assert seen_once(tiny, folder, folder / "ledger"), f"{SEED=} {folder} {how}"
            told, longest, commits, runs = told + how, max(longest, wait), commits + len(found), runs + 1
    record_figure(
        1,
        "one of two workers of Ray Train killed with SIGKILL, at random moments and right after commits",
        f"{len(told)} of {kills} kills, {told.count('right after a commit')} of them right after a commit: {commits} "
        f"commits equal in all bits to the undisturbed twin's, examples of committed steps seen exactly once; at most "
        f"{longest:.0f} s to the next commit; the command given again {begun - runs} times; seed {SEED}",
    )


@pytest.mark.s3
@pytest.mark.slow
def test_a_group_of_workers_keeps_all_in_a_bucket(
    tiny: Any, s3_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_figure: Any
) -> None:
    """Row 21: what Ray uploads by pyarrow arrives: a pointer to what is written when the next commit is begun, which
    none is when the first one is, and one to the last."""
    monkeypatch.setenv(COPIES, str(tmp_path / "copies"))
    store, log = f"s3://{s3_store.bucket()}/store", tmp_path / "log"
    with running_driver(log) as driver:
        driver.begin(tiny.settings(tmp_path, steps=9, log_every=3, storage=store), tmp_path / "ledger")
        assert driver.end() == 1, log.read_text()
    assert [step for step, _ in tiny.commits(store)] == [3, 6, 9]
    ray_train = open_store(f"{store}/ray-train")
    pointers = sorted(name for name, size in ray_train.names() if size and "pointer" in name)
    assert len(pointers) == 2
    assert json.loads(ray_train.read(pointers[-1]))["folder"].startswith("step-00000009")
    record_figure(21, "results and Ray's own files in a bucket, two workers", "3 of 3 commits and 2 pointers arrive")


@pytest.mark.s3
def test_chunked_uploads_are_refused_there_and_the_doctor_says_so(
    s3_store: Any, monkeypatch: pytest.MonkeyPatch, record_figure: Any
) -> None:
    """Row 21 without what ``pipeline.cluster.ENVIRONMENT`` tells every process of Ray."""
    monkeypatch.delenv(CHECKSUMS, raising=False)
    objects = open_store(f"s3://{s3_store.bucket()}/store")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - in the store's own words
        upload_by_pyarrow(objects, "probe")
    monkeypatch.setenv(CHECKSUMS, "WHEN_SUPPORTED")  # as somebody may have set it: a run would keep to that
    began = time.monotonic()
    with pytest.raises(Trouble, match=f"unset {CHECKSUMS}, which is WHEN_SUPPORTED, wherever Ray is started"):
        check_pyarrow(objects, "probe")
    record_figure(21, "chunked uploads, `rayfall doctor`", f"named with its remedy in {time.monotonic() - began:.1f} s")
    told = str(caught.value).splitlines()[0][:80]
    record_figure(21, "pyarrow without the variable", f"upload refused: {told}", protected=False)
