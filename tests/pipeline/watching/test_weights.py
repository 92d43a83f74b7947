"""Weights set aside while a stage trains: the right ones, few of them, and at no cost to what is trained."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.commits import CommitLog, OwnershipLost
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.results import folder_of
from pipeline.stage_run import StageRun
from pipeline.storage import open_storage
from pipeline.watching.weights import WatchedWeights
from pipeline.worker_settings import LoopSettings
from stages.checkpoints import load_trained

STEPS = 12
STAGE = {
    "name": "base",
    "size": 8,
    "net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    ingest_drawn(folder / "shards", seed=0, forms=make_forms([(8, "png")]), train=50, val=10, shard_size=32)
    return folder


def settings_of(data: Path, store: Path, *, steps: int = STEPS, **changes: Any) -> LoopSettings:
    fields: dict[str, Any] = {
        "stage": STAGE,
        "training": {"steps": steps, "batch_size": 8, "warmup": 2, "ema": 0.9},
        "seed": 0,
        "data": str(data),
        "shuffle": {"window": 16, "lanes": 1},
        "storage": str(store),
        "run": "runs/base",
        "threads": 1,
        "loader_processes": 0,
        "cache": str(store / "cache"),
        "cache_gb": 1.0,
        "cache_users": 1,
        "log_every": 5,
        "checkpoint_seconds": 1e9,
        "progress": None,
        "tracking_run": None,
    }
    return LoopSettings(**{**fields, **changes})


def train(settings: LoopSettings, *, killed_at: int | None = None) -> StageRun:
    """Run the loop here; with ``killed_at`` leave it as a killed worker does, after that step."""
    run = StageRun(settings, rank=0, world=1, device="cpu")
    run.resume()
    advance = run.advance

    def advance_or_die(batch: Any) -> Any:
        seen = advance(batch)
        if run.state.step == killed_at:
            raise KeyboardInterrupt
        return seen

    run.advance = advance_or_die  # type: ignore[method-assign]
    run.train(lambda entry, metrics: None)
    return run


def watched(store: Path) -> WatchedWeights:
    return WatchedWeights(CommitLog(open_storage(store), "runs/base", owner="test", clock=time.time), None)


def final(store: Path, steps: int = STEPS) -> dict[str, torch.Tensor]:
    """Weights, averages and optimizer statistics of the checkpoint at the last step."""
    log = CommitLog(open_storage(store), "runs/base", owner="test", clock=time.time)
    found = log.latest_whole(lambda entry: entry.info.get("step") == steps)
    assert found is not None
    files = {name: load_file(found[1] / f"{name}.safetensors") for name in ("net", "ema", "optimizer")}
    return {f"{name}/{key}": value for name, file in files.items() for key, value in file.items()}


def assert_equal_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.fixture(scope="module")
def unwatched(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("unwatched")
    train(settings_of(data, store))
    return store


def test_every_multiple_and_the_last_step_are_to_be_scored_and_few_are_kept(data: Path, tmp_path: Path) -> None:
    train(settings_of(data, tmp_path, watch_every=3))
    found = watched(tmp_path).to_score(STEPS)
    assert [(weights.step, weights.there) for weights in found] == [(3, False), (6, True), (9, True), (12, True)]
    assert [weights.step for weights in watched(tmp_path).to_score(8)] == [3, 6]
    # The log, the checkpoint and the two that are kept.
    assert len(list((tmp_path / "runs/base").iterdir())) == 4


def test_a_run_that_nobody_watches_sets_nothing_aside(unwatched: Path) -> None:
    assert [weights.step for weights in watched(unwatched).to_score(STEPS)] == [STEPS]
    assert len(list((unwatched / "runs/base").iterdir())) == 2


def test_setting_weights_aside_changes_no_bit_of_the_training(data: Path, unwatched: Path, tmp_path: Path) -> None:
    train(settings_of(data, tmp_path, watch_every=1))
    assert_equal_bits(final(tmp_path), final(unwatched))


def test_what_is_set_aside_is_the_average_of_that_step(data: Path, tmp_path: Path) -> None:
    train(settings_of(data, tmp_path / "watched", watch_every=9))
    train(settings_of(data, tmp_path / "shorter", steps=9))
    aside = watched(tmp_path / "watched").to_score(9)[-1]
    assert aside.step == 9
    sampled = load_trained(folder_of(aside.place))
    for name, value in sampled.net.state_dict().items():
        assert torch.equal(value, final(tmp_path / "shorter", 9)[f"ema/{name}"]), name


@pytest.mark.parametrize("killed_at", [4, 8])
def test_a_resumed_run_sets_the_same_aside_and_ends_in_the_same_bits(
    killed_at: int, data: Path, unwatched: Path, tmp_path: Path
) -> None:
    settings = settings_of(data, tmp_path, watch_every=4, checkpoint_seconds=0.0)  # a checkpoint at step 5
    with pytest.raises(KeyboardInterrupt):
        train(settings, killed_at=killed_at)
    aside = watched(tmp_path).to_score(8)
    before = {weights.step: load_file(folder_of(weights.place) / "ema.safetensors") for weights in aside}
    train(settings)
    assert_equal_bits(final(tmp_path), final(unwatched))
    after = watched(tmp_path).to_score(STEPS)
    assert sorted(weights.step for weights in after) == [4, 8, 12]
    for weights in after:
        if weights.step in before and weights.there:
            assert_equal_bits(load_file(folder_of(weights.place) / "ema.safetensors"), before[weights.step])


def test_the_newest_weights_are_those_of_the_highest_step_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    assert watched(tmp_path).newest(STEPS) is None
    train(settings_of(data, tmp_path, steps=7, watch_every=3))
    newest = watched(tmp_path).newest(STEPS)
    assert newest is not None
    assert newest.step == 7
    train(settings_of(data, tmp_path, watch_every=3))
    for last, step in ((STEPS, 12), (11, 9), (8, 7)):
        newest = watched(tmp_path).newest(last)
        assert newest is not None
        assert newest.step == step


def test_a_stale_worker_sets_nothing_aside(data: Path, tmp_path: Path) -> None:
    settings = settings_of(data, tmp_path, watch_every=3)
    stale = StageRun(settings, rank=0, world=1, device="cpu")
    stale.resume()
    train(settings)
    with pytest.raises(OwnershipLost):
        stale.train(lambda entry, metrics: None)


def test_named_steps_are_set_aside_besides_and_all_of_them_stay(data: Path, tmp_path: Path) -> None:
    run = train(settings_of(data, tmp_path, watch_every=4, watch_steps=(1, 2, 3, 5, STEPS)))
    there = [step for step in range(STEPS + 1) if run.kept.watched.set_aside(step) is not None]
    assert there == [1, 2, 3, 4, 5, 8]  # of every four steps the newest two; the last step has its checkpoint
    found = run.kept.watched.set_aside(3)
    assert found is not None
    assert load_trained(folder_of(found.place)).stage.spec.name == "base"
