"""Elastic training on a real Ray cluster: a node is lost with all that runs on it, and training goes on without it.

Without notice, and with: then the workers commit before it is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from pipeline.commits import CommitLog
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.history import read_history
from pipeline.spot_notice import drain, local_node
from pipeline.stage_run import StageRun
from pipeline.storage import open_storage
from pipeline.worker_settings import LoopSettings

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STEPS, LOST_AT = 400, 30

# A cluster of its own, in a process of its own. It says which raylet to kill, and how many workers train when asked.
DRIVER = """
import json, socket, sys, threading, time
import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors
from pipeline.commits import CommitLog
from pipeline.worker_settings import LoopSettings
from pipeline.storage import open_storage
from pipeline.training import fit

settings = LoopSettings(**json.load(open(sys.argv[1])))
with socket.socket() as free:  # another cluster may have the usual port
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
room = {"num_cpus": 1, "object_store_memory": 100 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**room, "include_dashboard": True, "dashboard_port": port})
other = cluster.add_node(**room)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
print(other.all_processes["raylet"][0].process.pid, flush=True)

def answer():
    for _ in sys.stdin:
        alive = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
        print(len(list_actors(filters=alive)), flush=True)

threading.Thread(target=answer, daemon=True).start()
log = CommitLog(open_storage(settings.storage), settings.run, owner="driver", clock=time.time)
context = {"workers": {"min": 1, "max": 2}, "cpus_per_worker": 1.0, "checkpoint_seconds": settings.checkpoint_seconds}
fit(settings, context, log)
ray.shutdown()
cluster.shutdown()
"""


def settings_of(folder: Path, *, checkpoint_seconds: float = 1.0, steps: int = STEPS) -> LoopSettings:
    return LoopSettings(
        stage={
            "name": "base",
            "size": 8,
            "net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8, "dropout": 0.2},
            "flip": True,
        },
        training={"steps": steps, "batch_size": 16, "micro_batch": 4, "warmup": 2, "ema": 0.9},
        seed=0,
        data=str(folder),
        shuffle={"window": 2, "lanes": 2},
        storage=str(folder / "store"),
        run="runs/base",
        threads=1,
        loader_processes=0,
        cache=str(folder / "cache"),
        cache_gb=1.0,
        cache_users=1,
        log_every=1,
        checkpoint_seconds=checkpoint_seconds,
        progress="progress.json",
        tracking_run=None,
    )


def losses(settings: LoopSettings) -> list[float]:
    """Those of the commit at the last step."""
    log = CommitLog(open_storage(settings.storage), settings.run, owner="test", clock=time.time)
    found = log.latest_whole(lambda entry: entry.info["step"] == STEPS)
    assert found is not None
    return [entry["loss"] for entry in read_history(found[1])]


@pytest.fixture
def driver(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Trains with ``settings_of``, which a test may parametrize."""
    ingest_drawn(tmp_path / "shards", seed=0, forms=make_forms([(8, "png")]), train=50, val=10, shard_size=8)
    (tmp_path / "settings.json").write_text(json.dumps(asdict(settings_of(tmp_path, **getattr(request, "param", {})))))
    (tmp_path / "driver.py").write_text(DRIVER)
    # A folder of its own, or whoever starts Ray on this machine meanwhile would join this cluster; its sockets need a
    # short path.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as own:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "settings.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_TMPDIR": own, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"},
        )
        yield process
        left = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for one in left:
            one.kill()
        process.wait()


def ask(driver: subprocess.Popen[str], question: str = "") -> int:
    """The next number that the driver says."""
    assert driver.stdin is not None
    assert driver.stdout is not None
    if question:
        driver.stdin.write(question + "\n")
        driver.stdin.flush()
    for line in driver.stdout:
        if line.strip().isdigit():
            return int(line)
    raise AssertionError("the driver ended")


def wait_for(progress: Path, step: int, limit: float) -> None:
    """Until training has taken ``step``; fails after ``limit`` seconds."""
    end = time.monotonic() + limit
    while not progress.exists() or json.loads(progress.read_text())[0] < step:
        assert time.monotonic() < end, f"step {step} was not reached"
        time.sleep(0.01)


def test_a_lost_node_costs_its_worker_and_nothing_else(
    driver: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raylet = psutil.Process(ask(driver))
    progress = tmp_path / "store" / "progress.json"
    wait_for(progress, LOST_AT, limit=180)
    assert ask(driver, "how many?") == 2
    for process in [raylet, *raylet.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    lost = time.monotonic()
    time.sleep(1.0)  # what was under way is written
    reached = json.loads(progress.read_text())[0]
    wait_for(progress, reached + 1, limit=240)
    recovery = time.monotonic() - lost
    assert ask(driver, "how many?") == 1
    assert driver.wait(timeout=240) == 0

    settings = replace(settings_of(tmp_path), storage=str(tmp_path / "alone"), progress=None)
    alone = StageRun(settings, rank=0, world=1, device="cpu")
    alone.resume()
    alone.train(lambda entry, metrics: None)
    found, straight = losses(settings_of(tmp_path)), losses(settings)
    assert len(found) == len(straight) == STEPS
    apart = max(abs(a - b) / b for a, b in zip(found, straight, strict=True))
    assert apart < 1e-5
    with capsys.disabled():
        print(f"\na node lost near step {reached}: steps went on after {recovery:.0f} s, losses within {apart:.1e}")


LONG = 600  # steps, enough to be under way while Ray is told


@pytest.mark.parametrize("driver", [{"checkpoint_seconds": 1e5, "steps": LONG}], indirect=True)
def test_an_announced_loss_is_committed_before_it_happens(driver: subprocess.Popen[str], tmp_path: Path) -> None:
    """No routine commit ever: where training goes on after the loss, it does so from the one for the notice."""
    raylet = psutil.Process(ask(driver))
    progress = tmp_path / "store" / "progress.json"
    wait_for(progress, LOST_AT, limit=180)
    (node_id,) = (part.split("=", 1)[1] for part in raylet.cmdline() if part.startswith("--node_id="))
    assert drain(local_node(node_id), 60)
    log = CommitLog(open_storage(settings_of(tmp_path).storage), "runs/base", owner="test", clock=time.time)
    end = time.monotonic() + 30
    while not (commits := [entry.info["step"] for entry in log.entries() if entry.kind == "commit"]):
        assert time.monotonic() < end, "nothing was committed"
        time.sleep(0.1)
    assert LOST_AT <= commits[0] < LONG
    for process in [raylet, *raylet.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)
    assert driver.wait(timeout=400) == 0
    commits = [entry.info["step"] for entry in log.entries() if entry.kind == "commit"]
    assert len(commits) == 2
    assert commits[1] == LONG
