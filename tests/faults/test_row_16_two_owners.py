"""Row 16: two commands at one run: the second is refused by the name of the first, and an owner that was only asleep
commits nothing any more.

In a real object store (Ceph), with real processes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.experiment import load_experiment
from pipeline.leases import Lease, Owner, this_process
from pipeline.s3_storage import COPIES
from pipeline.storage import open_storage
from pipeline.workflow import at_work

pytestmark = [pytest.mark.faults, pytest.mark.s3]

RACERS, STEPS, INTERVAL, SEED = 16, 12, 3, 20261122
BEAT, SILENCE = 0.2, 1.5  # seconds
DEMO = Path(__file__).parents[2] / "jobs" / "experiments" / "demo.yaml"

# Every process tells for each round whether it got the claim, and whether its commit is the first of the log.
RACE = """
import json, multiprocessing, sys
from pipeline.commits import CommitLog, OwnershipLost
from pipeline.leases import Lease, Owner
from pipeline.s3_requests import S3Requests  # boto3, which takes long to import, once
from pipeline.storage import open_storage

address, racers, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def race(number, gate, told):
    storage, won = open_storage(address), []
    for turn in range(rounds):
        owner = Owner(owner=f"other:{number}", since=0.0)
        lease = Lease(storage.objects(""), f"claims/{turn}", owner, beat=0.2, silence=600.0)
        gate.wait()
        claim = lease.take(wait=False) is None
        log = CommitLog(storage, f"runs/{turn}", owner=str(number), clock=lambda: 0.0)
        name, folder = log.new_folder("step")
        (folder / "weights").write_text(str(number))
        log.begin()
        gate.wait()
        try:
            log.commit(name, {})
            commit = True
        except OwnershipLost:
            commit = False
        won.append([claim, commit])
        gate.wait()
        if claim:
            lease.release()
    told.put(won)

context = multiprocessing.get_context("fork")
gate, told = context.Barrier(racers), context.Queue()
processes = [context.Process(target=race, args=(number, gate, told)) for number in range(racers)]
for process in processes:
    process.start()
print(json.dumps([told.get(timeout=300) for _ in processes]))
"""


@pytest.fixture
def store(s3_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(COPIES, str(tmp_path / "copies"))
    return f"s3://{s3_store.bucket()}/store"


def test_of_16_processes_that_race_one_wins(store: str, repeats: int, record_figure: Any) -> None:
    rounds = 50 if repeats >= 50 else 10
    arguments = [sys.executable, "-c", RACE, store, str(RACERS), str(rounds)]
    told = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=600).stdout)
    assert len(told) == RACERS
    claims, commits = ([sum(one[turn][what] for one in told) for turn in range(rounds)] for what in (0, 1))
    assert claims == commits == [1] * rounds
    assert all(len(open_storage(store).list(f"runs/{turn}/log")) == 1 for turn in range(rounds))
    record_figure(
        16,
        f"{RACERS} processes race for a claim and for an entry of a commit log, in a bucket",
        f"winners = 1 in {claims.count(1)} of {rounds} claims and in {commits.count(1)} of {rounds} entries",
    )


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def overtaken(tiny: Any, zygote: Any, store: str, folder: Path, commits: int, **how: Any) -> tuple[str, list[str]]:
    """An owner sleeps after so many commits, another trains to the end, the first wakes up: what it ended with, and
    the owners of all commits."""
    settings = tiny.settings(folder, steps=STEPS, log_every=INTERVAL, storage=store)
    sleeper = zygote.start(
        settings,
        folder / "ledger",
        lease=[BEAT, SILENCE],
        stop_after_commit=commits,
        error=str(folder / "error"),
        **how,
    )
    wait_for(lambda: is_stopped(sleeper))
    lease = Lease(
        open_storage(store).objects(""), "claims/sr", Owner(owner=this_process(), since=0.0), beat=BEAT, silence=SILENCE
    )
    began = time.monotonic()
    assert lease.take(wait=True) is None
    assert time.monotonic() - began > SILENCE
    tiny.train(settings)
    os.kill(sleeper, signal.SIGCONT)
    code = zygote.answer()
    lease.release()
    error = folder / "error"
    told = error.read_text() if code else ""
    owners = [entry.owner for entry in tiny.log(store).entries() if entry.kind == "commit"]
    assert owners[:commits] == [f"{os.uname().nodename}:{sleeper}"] * commits
    return told, owners[commits:]


def test_a_stale_owner_commits_nothing(
    tiny: Any, zygote: Any, twin: Callable[[int], Any], store: str, repeats: int, tmp_path: Path, record_figure: Any
) -> None:
    dice, rounds, straight = random.Random(SEED), max(1, repeats // 15), twin(STEPS)
    for number in range(rounds):
        (folder := tmp_path / str(number)).mkdir()
        address = f"{store}-{number}"
        told, later = overtaken(tiny, zygote, address, folder, dice.randint(1, STEPS // INTERVAL - 1))
        assert told == "OwnershipLost"
        assert set(later) == {this_process()}
        assert dict(tiny.commits(address)) == {step: straight[step] for step in range(INTERVAL, STEPS + 1, INTERVAL)}
    record_figure(
        16,
        "owner stopped with SIGSTOP for longer than its silence, another takes over, SIGCONT",
        f"stale commits 0 in {rounds} of {rounds}, all commits the twin's; seed {SEED}",
    )


def test_without_a_fixed_number_a_stale_owner_commits(
    tiny: Any, zygote: Any, store: str, tmp_path: Path, record_figure: Any
) -> None:
    told, later = overtaken(tiny, zygote, store, tmp_path, 2, without="number")
    stale = [owner for owner in later if owner != this_process()]
    assert told == ""
    assert len(stale) == STEPS // INTERVAL - 2
    record_figure(16, "the same, the number of a commit not fixed", f"stale commits {len(stale)}", protected=False)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_second_command_is_refused_by_the_name_of_the_first(
    kind: str, store: str, tmp_path: Path, record_figure: Any
) -> None:
    place = f"store={tmp_path / 'store' if kind == 'folder' else store}"
    tracking = f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"
    with at_work(load_experiment(DEMO, [place]), "experiment"):
        began = time.monotonic()
        answer = CliRunner().invoke(app, ["run", str(DEMO), "--set", place, "--set", tracking])
        took = time.monotonic() - began
    assert answer.exit_code == 2
    (sentence,) = answer.stderr.strip().splitlines()
    assert f"demo is at work already, by {this_process()} since 20" in sentence
    assert "end it and give this command again" in sentence
    record_figure(
        16, f"`rayfall run` twice at once, in a {kind}", f"refused with owner and since when, in {took:.1f} s"
    )
