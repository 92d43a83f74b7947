"""Elastic training: any number of workers goes on from any checkpoint, by the same numbers to rounding.

Every draw is on: noise, times, levels, noise and blur on the low-res image, flips, label drop and (unless said
otherwise) dropout. Workers are real processes with a real exchange of gradients (gloo).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.commits import CommitLog
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.history import read_history
from pipeline.stage_run import StageRun
from pipeline.storage import open_storage
from pipeline.worker_settings import LoopSettings

START, STEPS = 6, 27  # the common checkpoint; one step for its gradient and 20 for their losses

# torch and what an optimizer makes it import take seconds, so one process does it and forks the workers: a job is one
# line of its input.
FOUNDRY = """
import json, os, sys, traceback
import torch, torch._dynamo, torch.distributed as dist
from safetensors.torch import save_file
from pipeline.stage_run import StageRun
from pipeline.worker_settings import LoopSettings

torch.set_num_threads(1)

def work(rank, settings, world, meeting, gradient):
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    run = StageRun(LoopSettings(**settings), rank=rank, world=world, device="cpu")
    run.resume()
    if gradient:
        run.advance(run.batch(run.state.step))
        if rank == 0:
            save_file({name: p.grad for name, p in run.state.net.named_parameters() if p.grad is not None}, gradient)
    run.train(lambda entry, metrics: None)

for line in sys.stdin:
    job = json.loads(line)
    workers = []
    for rank in range(job["world"]):
        workers.append(os.fork())
        if workers[-1] == 0:
            try:
                work(rank, **job)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    print(json.dumps(workers), flush=True)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]), flush=True)
"""


@dataclass(frozen=True)
class Foundry:
    """Makes groups of worker processes."""

    process: subprocess.Popen[str]
    folder: Path

    def start(self, settings: LoopSettings, world: int, gradient: Path | None = None) -> list[int]:
        """Process ids of ``world`` workers. The gradient of their first step goes to a file, if one is named."""
        assert self.process.stdin is not None
        meeting = self.folder / f"meeting-{time.monotonic_ns()}"
        job = {"settings": asdict(settings), "world": world, "meeting": str(meeting)}
        self.process.stdin.write(json.dumps({**job, "gradient": None if gradient is None else str(gradient)}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def wait(self) -> list[int]:
        """Exit codes of the workers started last."""
        return self._answer()

    def train(self, settings: LoopSettings, world: int, gradient: Path | None = None) -> None:
        self.start(settings, world, gradient)
        assert self.wait() == [0] * world

    def _answer(self) -> list[int]:
        assert self.process.stdout is not None
        answer: list[int] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def foundry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foundry]:
    folder = tmp_path_factory.mktemp("foundry")
    (folder / "foundry.py").write_text(FOUNDRY)
    process = subprocess.Popen(
        [sys.executable, str(folder / "foundry.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield Foundry(process, folder)
    process.communicate()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    ingest_drawn(
        folder / "shards", seed=0, forms=make_forms([(16, "png")]), train=50, val=10, shard_size=8
    )  # epochs end inside a batch
    return folder


def settings_of(data: Path, store: Path, *, dropout: float = 0.2, **training: Any) -> LoopSettings:
    net = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8, "dropout": dropout}
    return LoopSettings(
        stage={
            "name": "sr",
            "size": 8,
            "low_res_size": 4,
            "low_res_schedule": {},
            "net": net,
            "augmentation": {"noise": {"levels": [0.0, 0.4]}, "blur": {}},
            "flip": True,
            "label_drop": 0.3,
        },
        training={"steps": STEPS, "batch_size": 8, "warmup": 2, "ema": 0.9, **training},
        seed=0,
        data=str(data),
        shuffle={"window": 2, "lanes": 2},
        storage=str(store),
        run="runs/sr",
        threads=1,
        loader_processes=0,
        cache=str(store / "cache"),
        cache_gb=1.0,
        cache_users=1,
        log_every=1,
        checkpoint_seconds=1e9,
        progress=None,
        tracking_run=None,
    )


def train_alone(settings: LoopSettings) -> None:
    """One worker, in this process."""
    run = StageRun(settings, rank=0, world=1, device="cpu")
    run.resume()
    run.train(lambda entry, metrics: None)


def final_folder(store: Path, steps: int = STEPS) -> Path:
    """The files of the commit at the last step."""
    log = CommitLog(open_storage(store), "runs/sr", owner="test", clock=time.time)
    found = log.latest_whole(lambda entry: entry.info["step"] == steps)
    assert found is not None
    return found[1]


def weights(store: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and optimizer statistics at the last step."""
    files = {name: load_file(final_folder(store) / f"{name}.safetensors") for name in ("net", "ema", "optimizer")}
    return {f"{name}/{key}": value for name, file in files.items() for key, value in file.items()}


def assert_equal_bits(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


def losses(store: Path, steps: int = STEPS) -> list[float]:
    return [entry["loss"] for entry in read_history(final_folder(store, steps))]


@dataclass(frozen=True)
class Difference:
    """How far two continuations of one checkpoint are apart, relative."""

    gradient: float  # of the first step: norm of the difference over the norm
    losses: float  # largest, over the steps after it


def continued(foundry: Foundry, settings: LoopSettings, folder: Path, world: int) -> tuple[torch.Tensor, list[float]]:
    """Gradient of the first step and losses of the later ones, from the checkpoint in ``folder / "start"``."""
    store = folder / str(world)
    shutil.copytree(folder / "start", store)
    foundry.train(replace(settings, storage=str(store)), world, gradient=folder / f"{world}.safetensors")
    gradient = load_file(folder / f"{world}.safetensors")
    return torch.cat([gradient[name].flatten() for name in sorted(gradient)]), losses(store)[START:]


def differences(foundry: Foundry, settings: LoopSettings, folder: Path, worlds: tuple[int, ...]) -> list[Difference]:
    """Of runs on ``worlds`` workers from that on one, all from a checkpoint that one worker made."""
    store, short = folder / "start", {**settings.training, "steps": START}
    train_alone(replace(settings, storage=str(store), training=short))
    gradient, straight = continued(foundry, settings, folder, 1)
    assert len(straight) == 20
    found = []
    for world in worlds:
        other, curve = continued(foundry, settings, folder, world)
        apart = max(abs(a - b) / b for a, b in zip(curve, straight, strict=True))
        found.append(Difference(float((other - gradient).norm() / gradient.norm()), apart))
    return found


@pytest.mark.parametrize("batch_size", [8, 9])  # 4 micro-batches, and 5 of which the last is shorter
def test_any_number_of_workers_goes_on_alike(batch_size: int, foundry: Foundry, data: Path, tmp_path: Path) -> None:
    settings = settings_of(data, tmp_path, batch_size=batch_size, micro_batch=2)
    for difference in differences(foundry, settings, tmp_path, (2, 3)):
        assert difference.gradient < 1e-6
        assert difference.losses < 1e-5


def test_uneven_shares_weigh_each_example_alike(foundry: Foundry, data: Path, tmp_path: Path) -> None:
    """8 examples on 3 workers, each share in one piece; without dropout, whose masks then depend on the shares."""
    (difference,) = differences(foundry, settings_of(data, tmp_path, dropout=0.0), tmp_path, (3,))
    assert difference.gradient < 1e-6
    assert difference.losses < 1e-5


@pytest.mark.parametrize("batch_size", [8, 7])
def test_two_micro_batches_are_the_same_bits_on_one_worker_and_on_two(
    batch_size: int, foundry: Foundry, data: Path, tmp_path: Path
) -> None:
    """A sum of two does not depend on who adds."""
    for world in (1, 2):
        foundry.train(settings_of(data, tmp_path / str(world), batch_size=batch_size, micro_batch=4), world)
    assert_equal_bits(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("world", [1, 3])
def test_killed_and_resumed_anywhere_a_run_ends_in_the_same_bits(
    world: int, foundry: Foundry, data: Path, tmp_path: Path
) -> None:
    micro = {"batch_size": 9, "micro_batch": 2}
    foundry.train(settings_of(data, tmp_path / "straight", **micro), world)
    progress = tmp_path / "killed" / "progress.json"
    settings = replace(settings_of(data, tmp_path / "killed", **micro), checkpoint_seconds=0.0, progress=progress.name)
    for after in (3, 11, 19):
        workers = foundry.start(settings, world)
        end = time.monotonic() + 120
        while not progress.exists() or json.loads(progress.read_text())[0] < after:
            assert time.monotonic() < end, f"step {after} was not reached"
            time.sleep(0.001)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)  # in the middle of a later step or of its commit
        assert foundry.wait() == [-signal.SIGKILL] * world
    foundry.train(settings, world)
    assert len(losses(tmp_path / "killed")) == STEPS
    assert_equal_bits(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.slow
def test_later_curves_differ_less_than_seeds_do(foundry: Foundry, data: Path, tmp_path: Path) -> None:
    """Rounding grows as training goes on; it stays small beside what another seed changes."""
    steps, seeds = 300, range(3)

    def curve(seed: int, world: int) -> torch.Tensor:
        """Mean losses of 50 steps each."""
        store = tmp_path / f"{seed}-{world}"
        settings = settings_of(data, store, steps=steps, micro_batch=2, learning_rate=3e-3)
        foundry.train(replace(settings, seed=seed), world)
        return torch.tensor(losses(store, steps), dtype=torch.float64).reshape(-1, 50).mean(1)

    alone = torch.stack([curve(seed, 1) for seed in seeds])
    spread = alone.std(0)
    apart = (curve(0, 3) - alone[0]).abs()
    assert (apart < 0.01 * spread).all(), f"{apart.tolist()} beside a spread of {spread.tolist()}"
