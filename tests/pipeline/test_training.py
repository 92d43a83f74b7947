"""The worker's part of training, without Ray: kill anywhere and the run ends in the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.commits import CommitLog, Entry, OwnershipLost
from pipeline.dag import Progress, Task
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.errors import UserError
from pipeline.kept_states import KeptStates
from pipeline.preemption import Notice
from pipeline.stage_run import StageRun
from pipeline.storage import open_storage
from pipeline.training import TrainingStopped, train_stage
from pipeline.worker_settings import LoopSettings
from stages.checkpoints import Checkpoint, load_trained

STEPS = 12
STAGE = {
    "name": "sr",
    "size": 8,
    "low_res_size": 4,
    "low_res_schedule": {},
    "net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8},
    "augmentation": {"noise": {"levels": [0.0, 0.3]}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    ingest_drawn(
        folder, seed=0, forms=make_forms([(8, "png")]), train=50, val=10, shard_size=32
    )  # 50 / 8: epochs end inside a batch
    return folder


def settings_of(data: Path, store: Path, **changes: object) -> LoopSettings:
    training = {"steps": STEPS, "batch_size": 8, "warmup": 2, "ema": 0.9}
    plain = LoopSettings(
        stage=STAGE,
        training=training,
        seed=0,
        data=str(data.parent),
        shuffle={"window": 16, "lanes": 1},
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
    return replace(plain, **changes)  # type: ignore[arg-type]


def train(settings: LoopSettings, *, stop_after: int | None = None) -> StageRun:
    """Run the loop here; ``stop_after`` commits, leave by an exception as a killed worker does."""
    run = StageRun(settings, rank=0, world=1, device="cpu")
    run.resume()
    seen = 0

    def report(entry: object, metrics: dict[str, float]) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_after:
            raise KeyboardInterrupt

    run.train(report)
    return run


def log_of(store: Path) -> CommitLog:
    return CommitLog(open_storage(store), "runs/sr", owner="test", clock=time.time)


def final(store: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and optimizer statistics of the commit at the last step."""
    log = log_of(store)
    found = log.latest_whole(lambda entry: entry.info["step"] == STEPS)
    assert found is not None
    files = [load_file(found[1] / f"{name}.safetensors") for name in ("net", "ema", "optimizer")]
    return {f"{number}/{key}": value for number, file in enumerate(files) for key, value in file.items()}


def assert_equal_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def averaging(data: Path, store: Path, *, steps: int = STEPS, **changes: object) -> LoopSettings:
    """A run that stores two averages at steps 3, 6, 9, ... and at its last."""
    training = {**settings_of(data, store).training, "steps": steps, "averages": {"every": 3}}
    return settings_of(data, store, training=training, checkpoint_seconds=0.0, **changes)


def result_of(settings: LoopSettings, out: Path) -> dict[str, bytes]:
    """Files of the training node's result, where the run is done; their names and bytes."""
    out.mkdir(parents=True)
    (data := out.parent / f"{out.name}-data").mkdir()
    (data / "location.json").write_text(json.dumps({"path": settings.data}))
    config = {"stage": settings.stage, "training": settings.training, "seed": settings.seed}
    context = {"run": settings.run, "threads": 1, "log_every": 1, "checkpoint_seconds": 1.0}
    train_stage(Task("train/sr", config, {"data": data}, out, context, open_storage(settings.storage), Progress()))
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def averaged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The result of an uninterrupted run that stores averages."""
    store = tmp_path_factory.mktemp("averaged")
    train(averaging(data, store))
    return result_of(averaging(data, store), store / "out")


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("straight")
    train(settings_of(data, store))
    return store


@pytest.mark.parametrize("stop_after", [1, 5])
def test_resumed_run_equals_the_uninterrupted_one(
    stop_after: int, data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    settings = settings_of(data, tmp_path, checkpoint_seconds=0.0)  # a commit at every step
    with pytest.raises(KeyboardInterrupt):
        train(settings, stop_after=stop_after)
    resumed = train(settings)
    assert [entry["step"] for entry in resumed.history] == list(range(1, STEPS + 1))
    assert_equal_bits(final(tmp_path), final(uninterrupted))


def test_a_run_is_gone_on_with_whether_blocks_are_computed_again_or_not(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    settings = settings_of(data, tmp_path, checkpoint_seconds=0.0, recompute=4)
    with pytest.raises(KeyboardInterrupt):
        train(settings, stop_after=2)
    train(replace(settings, recompute=None))
    assert_equal_bits(final(tmp_path), final(uninterrupted))


def test_a_machine_without_a_compiler_compiles_no_nets(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"resources\.compile: compiling a net needs a C\+\+ compiler"):
        StageRun(settings_of(data, tmp_path, compile=True), rank=0, world=1, device="cpu")


def test_kill_9_at_any_moment_changes_nothing(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    settings = settings_of(data, tmp_path, checkpoint_seconds=0.0)
    script = tmp_path / "loop.py"
    script.write_text(
        "import json, sys, torch\n"
        "from pipeline.stage_run import StageRun\n"
        "from pipeline.worker_settings import LoopSettings\n"
        "torch.set_num_threads(1)\n"
        "run = StageRun(LoopSettings(**json.load(open(sys.argv[1]))), rank=0, world=1, device='cpu')\n"
        "run.resume()\n"
        "print('ready', flush=True)\n"
        "run.train(lambda entry, metrics: print(int(metrics['step']), flush=True))\n"
    )
    (tmp_path / "settings.json").write_text(json.dumps(asdict(settings)))
    for after in ("3", "7"):
        child = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "settings.json")], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        while child.stdout.readline().strip() != after:
            assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)  # in the middle of the next step or of its commit
        child.wait()
    resumed = train(settings)
    assert resumed.state.step == STEPS
    assert_equal_bits(final(tmp_path), final(uninterrupted))


def stored(result: dict[str, bytes]) -> dict[str, bytes]:
    """What a result is sampled from; its description and metrics tell of times and of the steps asked for."""
    return {name: data for name, data in result.items() if name.endswith(".safetensors")}


def test_averages_are_stored_at_every_multiple_and_at_the_end(averaged: dict[str, bytes], tmp_path: Path) -> None:
    names = [f"averages/{step:08d}.safetensors" for step in (3, 6, 9, 12)]
    assert sorted(averaged) == [*names, "ema.safetensors", "history.json", "spec.json"]


def test_keeping_averages_changes_nothing_else(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    train(averaging(data, tmp_path))
    assert_equal_bits(final(tmp_path), final(uninterrupted))
    log = log_of(uninterrupted)
    found = log.latest_whole()
    assert found is not None
    assert sorted(found[0].files) == [
        "ema.safetensors", "history.json", "net.safetensors", "optimizer.safetensors", "spec.json"
    ]  # fmt: skip


@pytest.mark.parametrize("stop_after", [2, 4, 7])
def test_a_resumed_run_stores_the_same_averages(
    stop_after: int, data: Path, averaged: dict[str, bytes], tmp_path: Path
) -> None:
    settings = averaging(data, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(settings, stop_after=stop_after)
    train(settings)
    assert stored(result_of(settings, tmp_path / "out")) == stored(averaged)


def test_kill_9_loses_no_stored_average(data: Path, averaged: dict[str, bytes], tmp_path: Path) -> None:
    """Killed between writing and committing its third pair, with no checkpoint yet: it falls back behind two others."""
    settings = replace(averaging(data, tmp_path), checkpoint_seconds=1e9)
    (tmp_path / "settings.json").write_text(json.dumps(asdict(settings)))
    script = tmp_path / "loop.py"
    script.write_text(
        "import json, os, signal, sys, torch\n"
        "from pipeline import snapshots\n"
        "from pipeline.stage_run import StageRun\n"
        "from pipeline.worker_settings import LoopSettings\n"
        "torch.set_num_threads(1)\n"
        "whole, calls = snapshots.save_averages, []\n"
        "def save_averages(path, averages):\n"
        "    whole(path, averages)\n"
        "    calls.append(path)\n"
        "    if len(calls) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "snapshots.save_averages = save_averages\n"
        "run = StageRun(LoopSettings(**json.load(open(sys.argv[1]))), rank=0, world=1, device='cpu')\n"
        "run.resume()\n"
        "run.train(lambda entry, metrics: None)\n"
    )
    assert subprocess.run([sys.executable, str(script), str(tmp_path / "settings.json")]).returncode == -9
    train(settings)
    assert stored(result_of(settings, tmp_path / "out")) == stored(averaged)
    # One stored average of each step, the checkpoint and the log: what was superseded or torn is gone.
    assert len(os.listdir(tmp_path / "runs/sr")) == STEPS // 3 + 2


@pytest.mark.parametrize("stop", [5, 6])
def test_a_continued_run_depends_on_its_last_step_only(
    stop: int, data: Path, averaged: dict[str, bytes], tmp_path: Path
) -> None:
    train(averaging(data, tmp_path, steps=stop))
    first = stored(result_of(averaging(data, tmp_path, steps=stop), tmp_path / "first"))
    assert [name for name in first if name.startswith("averages")][-1] == f"averages/{stop:08d}.safetensors"
    train(averaging(data, tmp_path))
    assert stored(result_of(averaging(data, tmp_path), tmp_path / "out")) == stored(averaged)
    # The shorter result can be had again: its checkpoint and the averages before it are still there.
    assert stored(result_of(averaging(data, tmp_path, steps=stop), tmp_path / "again")) == first


def test_a_damaged_stored_average_is_made_again(data: Path, averaged: dict[str, bytes], tmp_path: Path) -> None:
    settings = averaging(data, tmp_path)
    train(settings)
    (damaged,) = (tmp_path / "runs/sr").glob("averages-00000006-*/averages.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    train(settings)
    assert stored(result_of(settings, tmp_path / "out")) == stored(averaged)


def test_a_result_gives_any_ema_length(data: Path, averaged: dict[str, bytes], tmp_path: Path) -> None:
    settings = averaging(data, tmp_path)
    train(settings)
    result_of(settings, tmp_path / "out")
    usual, narrow, between = (load_trained(tmp_path / "out", ema_length=length).net for length in (None, 0.05, 0.07))
    last = load_file(tmp_path / "out/averages/00000012.safetensors")
    for name, parameter in narrow.named_parameters():
        assert torch.equal(parameter, last[f"0.05/{name}"])

    def distance(first: torch.nn.Module, second: torch.nn.Module) -> float:
        pairs = zip(first.parameters(), second.parameters(), strict=True)
        return sum(float((a - b).square().sum()) for a, b in pairs)

    assert 0.0 < distance(between, narrow) < distance(usual, narrow)


def test_more_steps_continue_and_fewer_do_not_disturb(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    short = settings_of(data, tmp_path, training={**settings_of(data, tmp_path).training, "steps": 5})
    train(short)
    longer = train(settings_of(data, tmp_path))
    assert longer.history[0]["step"] == 1
    assert_equal_bits(final(tmp_path), final(uninterrupted))
    log = log_of(tmp_path)
    assert [entry.info["step"] for entry in log.entries() if entry.kind == "commit"] == [5, STEPS]
    train(short)  # its final checkpoint is still there: nothing to do
    assert log.latest_whole(lambda entry: entry.info["step"] == 5) is not None


def test_a_stale_worker_cannot_commit(data: Path, tmp_path: Path) -> None:
    settings = settings_of(data, tmp_path, checkpoint_seconds=0.0)
    stale = StageRun(settings, rank=0, world=1, device="cpu")
    stale.resume()
    train(settings)
    with pytest.raises(OwnershipLost):
        stale.train(lambda entry, metrics: None)


def test_a_commit_holds_its_step_although_training_goes_on_while_it_is_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of step 3 is held up until step 6 is done, and is that of a run that ends with step 3."""
    run = StageRun(settings_of(data, tmp_path / "asked"), rank=0, world=1, device="cpu")
    whole = KeptStates.commit

    def commit_late(kept: KeptStates, checkpoint: Checkpoint, history: str, info: Mapping[str, Any]) -> Entry:
        while run.state.step < min(info["step"] + 3, STEPS):
            time.sleep(0.01)
        return whole(kept, checkpoint, history, info)

    monkeypatch.setattr(KeptStates, "commit", commit_late)
    notices = iter([None, None])
    run.resume()
    run.train(lambda entry, metrics: None, lambda: next(notices, Notice(frozenset({"a"}))))
    monkeypatch.undo()
    settings = settings_of(data, tmp_path / "short")
    train(replace(settings, training={**settings.training, "steps": 3}))
    found = [log_of(tmp_path / name).latest_whole(lambda entry: entry.info["step"] == 3) for name in ("asked", "short")]
    ours, theirs = (folder for _, folder in (one for one in found if one is not None))
    for name in ("net", "ema", "optimizer"):
        assert_equal_bits(load_file(ours / f"{name}.safetensors"), load_file(theirs / f"{name}.safetensors"))
    steps = [[row["step"] for row in json.loads((folder / "history.json").read_text())] for folder in (ours, theirs)]
    assert steps == [[1, 2, 3], [1, 2, 3]]


def test_a_loss_that_is_not_finite_stops_before_a_commit(data: Path, tmp_path: Path) -> None:
    settings = settings_of(data, tmp_path)
    run = StageRun(settings, rank=0, world=1, device="cpu")
    run.resume()
    with torch.no_grad():
        next(iter(run.state.net.parameters())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="sr: the loss is nan at step 1, with a gradient norm of nan;"):
        run.train(lambda entry, metrics: None)
    assert run.commits.latest_whole() is None


def test_ranks_share_the_global_batch(data: Path, tmp_path: Path) -> None:
    whole = StageRun(settings_of(data, tmp_path), rank=0, world=1, device="cpu").batch(6)
    parts = [StageRun(settings_of(data, tmp_path), rank=rank, world=2, device="cpu").batch(6) for rank in (0, 1)]
    for name in ("images", "labels", "positions"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_two_workers_train_as_one(data: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """DistributedDataParallel over two real processes: the same losses and weights to rounding."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import json, sys, torch, torch.distributed as dist\n"
        "from pipeline.stage_run import StageRun\n"
        "from pipeline.worker_settings import LoopSettings\n"
        "torch.set_num_threads(1)\n"
        "rank = int(sys.argv[2])\n"
        "dist.init_process_group('gloo', init_method=f'file://{sys.argv[3]}', rank=rank, world_size=2)\n"
        "run = StageRun(LoopSettings(**json.load(open(sys.argv[1]))), rank=rank, world=2, device='cpu')\n"
        "run.resume()\n"
        "run.train(lambda entry, metrics: None)\n"
        "dist.destroy_process_group()\n"
    )
    settings = settings_of(data, tmp_path / "store", checkpoint_seconds=0.0)
    (tmp_path / "settings.json").write_text(json.dumps(asdict(settings)))
    arguments = [sys.executable, str(script), str(tmp_path / "settings.json")]
    ranks = [subprocess.Popen([*arguments, str(rank), str(tmp_path / "meeting")]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    one, two = final(uninterrupted), final(tmp_path / "store")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=2e-5)
    log = log_of(tmp_path / "store")
    assert len([entry for entry in log.entries() if entry.kind == "commit"]) == STEPS


@pytest.mark.s3
def test_a_stage_trains_from_an_object_store_as_from_a_folder(data: Path, s3_store: Any, tmp_path: Path) -> None:
    """Killed and resumed, with a process that decodes ahead and a cache on this node: the same bits."""
    address = f"s3://{s3_store.bucket()}/drawn"
    ingest_drawn(address, seed=0, forms=make_forms([(8, "png")]), train=50, val=10, shard_size=32)
    link = tmp_path / "link"
    link.mkdir()
    (link / "location.json").write_text(json.dumps({"address": address, "reduction": "box"}))
    train(settings_of(data, tmp_path / "near"))
    remote = settings_of(
        link / "shards",  # what it is the parent of is the data node's result
        tmp_path / "far",
        loader_processes=1,
        cache=str(tmp_path / "cache"),
        checkpoint_seconds=0.0,
    )
    with pytest.raises(KeyboardInterrupt):
        train(remote, stop_after=4)
    train(remote)
    assert_equal_bits(final(tmp_path / "near"), final(tmp_path / "far"))
    assert [path.stat().st_size for path in (tmp_path / "cache").iterdir() if len(path.name) >= 64], "shards are kept"


def in_place(settings: LoopSettings, out: Path) -> Task:
    """The training node of a trial, whose worker is the process that asks for it."""
    out.mkdir()
    config = {key: getattr(settings, key) for key in ("stage", "training", "seed", "shuffle")}
    context = {**asdict(settings), "workers": 1, "in_place": True}
    storage = open_storage(settings.storage)
    return Task("train/sr", config, {"data": Path(settings.data)}, out, context, storage, Progress())


def test_a_mark_ends_training_after_a_commit_and_it_goes_on_without_the_mark(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    settings = settings_of(data, tmp_path, stop="called-off")
    storage, run = open_storage(tmp_path), StageRun(settings, rank=0, world=1, device="cpu")
    run.resume()
    committed: list[float] = []

    def report(entry: object, metrics: dict[str, float]) -> None:
        committed.append(metrics["step"])

    advance = run.advance

    def advance_and_mark(batch: Any) -> Any:
        seen = advance(batch)
        if run.state.step == 5:
            storage.put("called-off", b"")
        return seen

    run.advance = advance_and_mark  # type: ignore[method-assign]
    run.train(report)
    assert committed == [5]
    with pytest.raises(TrainingStopped):  # at the first step that it logs
        train_stage(in_place(settings, tmp_path / "stopped"))
    assert StageRun(settings, rank=0, world=1, device="cpu").commits.entries()[-1].info["step"] == 6
    storage.remove("called-off")
    train(settings)
    assert_equal_bits(final(tmp_path), final(uninterrupted))


def test_the_start_is_measured_until_the_first_step(data: Path, tmp_path: Path) -> None:
    asked = time.time() - 100.0
    run = train(settings_of(data, tmp_path, asked=asked), stop_after=None)
    (entry,) = [entry for entry in run.commits.entries() if entry.kind == "commit"]
    assert 100.0 < entry.info["start_seconds"] < time.time() - asked
    # Ray starts the workers of one asking again: that is no start of its own. A later asking is one.
    again = StageRun(settings_of(data, tmp_path, asked=asked), rank=0, world=1, device="cpu")
    again.resume()
    assert again.start_seconds == entry.info["start_seconds"]
    later = StageRun(settings_of(data, tmp_path, asked=time.time()), rank=0, world=1, device="cpu")
    later.resume()
    assert later.start_seconds is None


def test_a_worker_in_place_trains_as_any_other(
    data: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.train", None)  # a second of imports that one process has no use for
    summary = train_stage(in_place(settings_of(data, tmp_path), tmp_path / "out"))
    assert (summary["step"], summary["start_seconds"] > 0.0) == (STEPS, True)
    assert_equal_bits(final(tmp_path), final(uninterrupted))
