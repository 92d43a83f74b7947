"""One owner at a time, in a folder: claims are waited for, refused by the owner's name, and let go of by the dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.claims import Claimed, claimed, held_for, owner_of
from pipeline.leases import this_process
from pipeline.storage import open_storage


def test_a_claim_is_waited_for(tmp_path: Path) -> None:
    storage, order = open_storage(tmp_path), []

    def second() -> None:
        with claimed(storage, "training") as waited:
            order.append(("second", waited > 0.5))

    thread = threading.Thread(target=second)
    with claimed(storage, "training") as waited:
        assert waited < 0.5
        thread.start()
        time.sleep(1.0)
        with claimed(storage, "another training"):
            order.append(("first", True))
    thread.join()
    assert order == [("first", True), ("second", True)]


def test_who_does_not_wait_is_told_the_owner_and_since_when(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with claimed(storage, "run", clock=lambda: 1_790_000_000.0):
        with (
            pytest.raises(Claimed, match=rf"^owned by {this_process()} since 2026-09-21 14:13:20 UTC$"),
            claimed(storage, "run", refused=lambda owner: f"owned by {owner}"),
        ):
            raise AssertionError("a claim of somebody else's was given")
        with claimed(storage, "other", refused=str):
            pass
    with claimed(storage, "run", refused=str) as waited:
        assert waited < 0.5


def test_the_dead_hold_no_claim(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pipeline.storage import open_storage\n"
        "from pipeline.claims import claimed\n"
        "with claimed(open_storage(sys.argv[1]), 'training'):\n"
        "    print('mine', flush=True)\n"
        "    time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline().strip() == "mine"
    threading.Timer(1.0, owner.send_signal, [signal.SIGKILL]).start()
    with claimed(open_storage(tmp_path), "training") as waited:
        assert 0.5 < waited < 60.0
    assert owner.wait() == -signal.SIGKILL


def test_an_owner_that_has_not_said_its_name_yet_is_refused_all_the_same(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with claimed(storage, "run"):
        Path(tmp_path / "claims" / "run").write_text("")
        with pytest.raises(Claimed, match=r"^another process$"), claimed(storage, "run", refused=str):
            raise AssertionError("a claim of somebody else's was given")
    with claimed(storage, "run"):
        assert json.loads((tmp_path / "claims" / "run").read_text())["owner"].endswith(f":{os.getpid()}")


def test_an_owner_can_be_looked_for_and_is_not_disturbed(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert owner_of(storage, "run") is None
    assert list(tmp_path.iterdir()) == []
    with claimed(storage, "run", clock=lambda: 1_790_000_000.0):
        found = owner_of(storage, "run")
        assert found is not None
        assert found.told == f"{this_process()} since 2026-09-21 14:13:20 UTC"
        assert held_for(storage, "run") < 60.0
    assert owner_of(storage, "run") is None, "its name is still in the file"


def test_who_only_looks_is_no_reason_to_refuse(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with claimed(storage, "run"):
        pass
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            owner_of(storage, "run")
            time.sleep(0.001)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with claimed(storage, "run", refused=str):
                pass
    finally:
        over.set()
        for thread in threads:
            thread.join()
