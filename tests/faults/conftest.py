"""What the tests of faults share: a stage so small that it trains in a second, and processes that are cheap to kill.

Which row of the matrix is tested where, with which figure and which twin without protection: README.md beside this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.commits import CommitLog
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.stage_run import StageRun
from pipeline.storage import open_storage
from pipeline.worker_settings import LoopSettings

STAGE = {
    "name": "sr",
    "size": 8,
    "low_res_size": 4,
    "low_res_schedule": {},
    "net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8},
    "augmentation": {"noise": {"levels": [0.0, 0.3]}},
}
HASHED = ("net.safetensors", "ema.safetensors", "optimizer.safetensors")
Hashes = tuple[str, ...]


class Tiny:
    """A super-resolution stage of 8 px on 50 drawn images: settings, training, and what was committed."""

    examples = 50
    batch_size = 8  # 50 / 8: epochs end inside a batch

    def __init__(self, data: Path) -> None:
        self.data = data

    def settings(self, store: Path, *, steps: int = 12, training: dict[str, Any] | None = None, **changes: Any) -> Any:
        """Settings of a run that commits at every step, unless ``changes`` say otherwise."""
        asked = {"steps": steps, "batch_size": self.batch_size, "warmup": 2, "ema": 0.9, **(training or {})}
        plain = LoopSettings(
            stage=STAGE,
            training=asked,
            seed=0,
            data=str(self.data),
            shuffle={"window": 16, "lanes": 1},
            storage=str(store),
            run="runs/sr",
            threads=1,
            loader_processes=0,
            cache=str(store / "cache"),
            cache_gb=1.0,
            cache_users=1,
            log_every=1,
            checkpoint_seconds=0.0,
            progress=None,
            tracking_run=None,
        )
        return replace(plain, **changes)

    def run(self, settings: LoopSettings) -> StageRun:
        """A worker of one, resumed, in this process."""
        run = StageRun(settings, rank=0, world=1, device="cpu")
        run.resume()
        return run

    def train(self, settings: LoopSettings) -> StageRun:
        run = self.run(settings)
        run.train(lambda entry, metrics: None)
        return run

    def log(self, store: Path | str) -> CommitLog:
        return CommitLog(open_storage(store), "runs/sr", owner="test", clock=time.time)

    def commits(self, store: Path | str) -> list[tuple[int, Hashes]]:
        """Every checkpoint that was ever committed: its step, and the sha256 of weights, average and optimizer."""
        entries = [entry for entry in self.log(store).entries() if "step" in entry.info]
        return [(entry.info["step"], tuple(entry.files[name].sha256 for name in HASHED)) for entry in entries]


class Ended(NamedTuple):
    """How a child of the zygote ended: its exit code (-9: killed), and when, by the clock of its ledger."""

    pid: int
    code: int
    began: float
    ended: float

    @property
    def killed(self) -> bool:
        return self.code == -9


class Zygote:
    """The process of zygote.py, which forks what is killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def child(self, settings: LoopSettings, ledger: Path, **how: Any) -> Ended:
        """Fork a worker and wait until it ended; ``how`` it is to be killed stands in zygote.py."""
        began = time.monotonic()
        pid = self.start(settings, ledger, **how)
        return Ended(pid, self.answer(), began, time.monotonic())

    def start(self, settings: LoopSettings, ledger: Path, **how: Any) -> int:
        """Fork a worker, whose process id this is; its exit code is the next ``answer``."""
        assert self.process.stdin
        line = {"settings": asdict(settings), "ledger": str(ledger), **how}
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny") / "shards"
    ingest_drawn(folder, seed=0, forms=make_forms([(8, "png")]), train=Tiny.examples, val=10, shard_size=32)
    return Tiny(folder.parent)


@pytest.fixture(scope="session")
def zygote(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """One for the session; its first child has shown it what to import."""
    script, folder = Path(__file__).with_name("zygote.py"), tmp_path_factory.mktemp("zygote")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        found = Zygote(process)
        first = found.child(tiny.settings(folder / "store", steps=2), folder / "l", modules=str(folder / "modules"))
        assert first.code == 0
        yield found
        process.kill()


@pytest.fixture(scope="session")
def repeats(request: pytest.FixtureRequest) -> int:
    """How often something random is done: few times with every change, 300 times in the long form."""
    return int(request.config.getoption("--fault-repeats"))


@pytest.fixture(scope="session")
def twin(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[int, Hashes]]:
    """``twin(steps)``: the hashes after every step of a run that nobody disturbed, made twice, which must agree."""
    known: dict[int, dict[int, Hashes]] = {}

    def make(steps: int) -> dict[int, Hashes]:
        if steps not in known:
            twins = []
            for number in range(2):
                store = tmp_path_factory.mktemp(f"twin-{steps}-{number}")
                tiny.train(tiny.settings(store, steps=steps))
                twins.append(tiny.commits(store))
            assert twins[0] == twins[1], "unless twins agree, nothing that is killed means anything"
            assert [step for step, _ in twins[0]] == list(range(1, steps + 1))
            known[steps] = dict(twins[0])
        return known[steps]

    return make
