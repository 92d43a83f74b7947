"""Row 2: hosts whose power is cut while they train. The run goes on elsewhere, to the bits of an undisturbed one.

Hosts share a network and a bucket, nothing else: what a lost host had on its own disk is gone. The protection is that a
checkpoint is in the bucket before it counts; without it, results on the disk of the host that made them, nobody else
finds any.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commits import CommitLog
from pipeline.dag import stored
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.storage import open_storage

STEPS, EVERY = 6000, 25
TEXT = f"""\
name: lost
data: {{kind: drawn, size: 8, train: 80, val: 40}}
stages:
  base:
    size: 8
    net: {{kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}}
    training: {{steps: {STEPS}, batch_size: 8}}
evaluation: {{samples: 24, reference: 60}}
resources: {{cpus_per_worker: 1.0, log_every: {EVERY}, checkpoint_seconds: 1.0}}
"""
WEIGHTS = "ema.safetensors"


@pytest.fixture
def declared(s3_store: Any, tmp_path: Path) -> Callable[..., Experiment]:
    (tmp_path / "lost.yaml").write_text(TEXT)

    def load(store: str, **changes: Any) -> Experiment:
        settings = [f"store={store}", "tracking.uri=sqlite:////tmp/none.db", *(f"{k}={v}" for k, v in changes.items())]
        return load_experiment(tmp_path / "lost.yaml", settings)

    return load


def log_of(experiment: Experiment) -> CommitLog:
    run = Nodes(experiment).train("base").context["run"]
    return CommitLog(open_storage(experiment.store), run, owner="reader", clock=time.time)


def owner_and_step(log: CommitLog) -> tuple[str, int]:
    """The host that committed last, and the step of its checkpoint."""
    found = [entry for entry in log.entries() if "step" in entry.info]
    return (found[-1].owner.partition(":")[0], found[-1].info["step"]) if found else ("", 0)


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_hosts_are_lost_one_after_the_other_and_the_bits_are_those_of_an_undisturbed_run(
    hosts: Any, s3_store: Any, proxy_at: Any, declared: Callable[..., Experiment], record_figure: Any
) -> None:
    lot, losses = random.Random(7), 4  # Ray tries a task again three times
    gateway = proxy_at(s3_store.endpoint, hosts.gateway)
    disk = f"{hosts.folder}/disk"
    hosts.environment = {
        **hosts.environment, **s3_store.environment, "AWS_ENDPOINT_URL": gateway.endpoint, "RAYFALL_COPIES": f"{disk}/c"
    }  # fmt: skip
    disturbed, calm = (declared(f"s3://{s3_store.bucket()}/store") for _ in range(2))
    head = hosts.start_head()
    workers, names = {}, (f"host{number}" for number in itertools.count())
    for _ in range(2):
        name = next(names)
        workers[name] = hosts.start_worker(name, head)

    def command(experiment: Experiment) -> list[str]:
        asked = {"store": experiment.store, "tracking.uri": f"sqlite:///{disk}/m.db"}
        asked["resources.address"] = f"{head.address}:6379"
        given = [part for name, value in asked.items() for part in ("--set", f"{name}={value}")]
        rayfall = str(Path(sys.executable).with_name("rayfall"))
        return [rayfall, "train", str(hosts.folder / "lost.yaml"), *given]

    (hosts.folder / "lost.yaml").write_text(TEXT)
    driver, log = head.popen(command(disturbed), hosts.environment), log_of(disturbed)
    recovered = []
    for _ in range(losses):
        owner, step = wait_for(log, driver, head, lambda owner, step: step > 0)
        owner, step = wait_for(log, driver, head, lambda _, now, least=step: now > least)  # type: ignore[misc]
        time.sleep(lot.random())
        workers.pop(owner).cut_power()
        lost = time.monotonic()
        before = owner_and_step(log)[1]
        wait_for(log, driver, head, lambda now, step, lost=owner, least=before: now != lost and step > least)  # type: ignore[misc]
        recovered.append(time.monotonic() - lost)
        name = next(names)
        workers[name] = hosts.start_worker(name, head)
    assert driver.wait(600) == 0, head.log.read_text()[-3000:]
    head.run(*command(calm), environment=hosts.environment, timeout=600)

    assert weights_of(disturbed) == weights_of(calm)
    steps = [entry.info["step"] for entry in log.entries() if "step" in entry.info]
    assert steps == sorted(set(steps)), "no step was committed twice"
    told = f"{losses} of {losses} hosts lost, bits equal; next commit elsewhere after p50"
    record_figure(2, told, f"{statistics.median(recovered):.0f} s, most {max(recovered):.0f} s")

    disks = head.popen(command(declared(f"{disk}/store")), hosts.environment)
    assert disks.wait(600) == 1
    record_figure(2, "results on the disks of hosts", "found by nobody else", protected=False)


def wait_for(log: CommitLog, driver: Any, head: Any, good: Callable[[str, int], bool]) -> tuple[str, int]:
    """The host that committed last, and its step, once they are ``good``."""
    deadline = time.monotonic() + 300.0
    while not good(*(found := owner_and_step(log))):
        assert driver.poll() is None, f"the command ended at {found}\n{head.log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"nothing but {found}\n{head.log.read_text()[-3000:]}"
        time.sleep(0.5)
    return found


def weights_of(experiment: Experiment) -> str:
    """sha256 of the weights of a training's result."""
    result = stored(Nodes(experiment).train("base"), open_storage(experiment.store))
    assert result is not None
    return str(result.place.entry.files[WEIGHTS].sha256)  # type: ignore[union-attr]
