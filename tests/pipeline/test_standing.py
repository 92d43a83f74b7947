"""Where an experiment stands, by its store alone: what is done, who is at it, how far, what failed, what is unknown."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.claims import claimed
from pipeline.commits import CommitLog
from pipeline.computing import compute
from pipeline.dag import Node, NodeFailed, Progress
from pipeline.errors import UserError
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.leases import this_process
from pipeline.node_failures import note_failure
from pipeline.nodes import Nodes
from pipeline.session import at_work
from pipeline.standing import NodeStanding, Standing, look, standing_of
from pipeline.storage import LocalStorage, Storage, open_storage

DEMO = Path(__file__).parents[2] / "jobs" / "experiments" / "demo.yaml"
CLAIM = "experiment-1"
# A process that owns the claim it is told of, until it is killed.
HOLDER = """
import sys, time
from pipeline.claims import claimed
from pipeline.storage import open_storage
with claimed(open_storage(sys.argv[1]), sys.argv[2]):
    print("mine", flush=True)
    time.sleep(600)
"""


def make(task: Any) -> dict[str, Any]:
    return {}


def node(name: str, seed: int = 0, **inputs: Node) -> Node:
    return Node(name, f"{__name__}:make", 1, {"seed": seed, "size": 8}, inputs=inputs)


def training(name: str = "train/a", steps: int = 100) -> Node:
    made = node(name)
    return replace(made, config={**made.config, "training": {"steps": steps}}, context={"run": f"runs/{name}"})


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
    monkeypatch.setattr("pipeline.computing.source_of", lambda function: "one")
    monkeypatch.setattr("pipeline.computing.function_of", lambda name: make)
    monkeypatch.setattr("pipeline.dag.source_of", lambda function: "one")
    return LocalStorage(tmp_path)


@pytest.fixture
def declared(tmp_path: Path) -> Experiment:
    (tmp_path / "store").mkdir()
    return load_experiment(DEMO, [f"store={tmp_path / 'store'}"])


def say(storage: Storage, one: Node, *told: float) -> None:
    storage.put(f"progress/{one.digest[:16]}.json", json.dumps(told).encode())


def by_name(found: Standing) -> dict[str, NodeStanding]:
    return {one.node: one for one in found.nodes.values()}


def test_what_is_stored_is_done_and_the_rest_waits(storage: LocalStorage) -> None:
    first = node("data")
    second = node("scores", data=first)
    compute(first, storage.address)
    found = look([second], storage, CLAIM)
    assert [(one.node, one.state) for one in found.nodes.values()] == [("data", "done"), ("scores", "waiting")]
    assert (found.left_seconds, found.at_least_seconds) == (None, None)
    compute(second, storage.address)
    found = look([second], storage, CLAIM)
    assert {one.state for one in found.nodes.values()} == {"done"}
    assert (found.left_seconds, found.at_least_seconds) == (0.0, 0.0)


def test_inputs_of_what_is_stored_are_not_waited_for(storage: LocalStorage) -> None:
    first = node("data")
    second = node("scores", data=first)
    compute(first, storage.address)
    compute(second, storage.address)
    storage.remove(first.key)
    assert set(by_name(look([second], storage, CLAIM))) == {"scores"}


def test_progress_counts_while_somebody_is_at_work_and_not_after(storage: LocalStorage) -> None:
    one = node("real")
    with claimed(storage, CLAIM):
        say(storage, one, 30, 100, 10, 40.0)  # 20 in 40 s
        found = look([one], storage, CLAIM)
    (running,) = found.nodes.values()
    assert (running.state, running.done, running.total) == ("running", 30, 100)
    assert running.left_seconds == pytest.approx(140.0, abs=20.0)
    assert found.left_seconds == running.left_seconds
    time.sleep(0.1)  # times of files are coarse
    with claimed(storage, CLAIM):  # another command, which has not come to it yet
        assert [one.state for one in look([one], storage, CLAIM).nodes.values()] == ["waiting"]
    (left_behind,) = look([one], storage, CLAIM).nodes.values()
    assert (left_behind.state, left_behind.done) == ("waiting", None)


def test_the_time_left_is_unknown_at_the_first_word_and_before_it(storage: LocalStorage) -> None:
    one = node("real")
    for told in ((), (10, 100, 10, 0.0), (10, None, 3, 2.0)):
        with claimed(storage, CLAIM):
            say(storage, one, *told)  # type: ignore[arg-type]
            found = look([one], storage, CLAIM)
        (running,) = found.nodes.values()
        assert (running.state, running.left_seconds) == ("running", None)
        assert found.left_seconds is None


def test_what_progress_writes_is_understood(storage: LocalStorage) -> None:
    one = node("real")
    progress = Progress(storage, f"progress/{one.digest[:16]}.json")
    with claimed(storage, CLAIM):
        progress(1, 4)
        time.sleep(0.2)
        progress(3, 4)
        (running,) = look([one], storage, CLAIM).nodes.values()
    assert (running.done, running.total) == (3, 4)
    assert running.left_seconds is not None
    assert running.left_seconds <= 60.0


def test_a_training_that_was_cut_off_waits_at_its_checkpoint(storage: LocalStorage) -> None:
    one = training()
    log = CommitLog(storage, one.context["run"], owner="a", clock=time.time)
    _, folder = log.new_folder("checkpoint")
    (folder / "weights").write_bytes(b"w")
    log.commit(folder.name, {"step": 40})
    (waiting,) = look([one], storage, CLAIM).nodes.values()
    assert (waiting.state, waiting.done, waiting.total, waiting.left_seconds) == ("waiting", 40, 100, None)


def test_a_training_is_running_where_another_command_is_at_it(storage: LocalStorage) -> None:
    one = training()
    with claimed(storage, "a"):  # the last part of its run's name
        say(storage, one, 5, 100, 1, 4.0)
        (running,) = look([one], storage, CLAIM).nodes.values()
    assert (running.state, running.done) == ("running", 5)
    assert running.owner is not None
    assert running.owner.startswith(this_process())


def test_what_takes_as_long_as_others_is_reckoned_from_them(storage: LocalStorage) -> None:
    """Seeds apart, two nodes are the same work; of what nobody has timed yet no more than a lower bound is known."""
    done, same = node("real", seed=0), node("real", seed=1)
    compute(done, storage.address)
    other = node("other", real=same)
    found = look([done, same, other], storage, CLAIM)
    usual = by_name(found)["other"]
    assert usual.left_seconds is None
    assert found.nodes[same.digest].left_seconds == found.nodes[done.digest].seconds
    assert found.left_seconds is None
    assert found.at_least_seconds == found.nodes[done.digest].seconds


def test_why_a_node_failed_is_told_until_it_is_tried_again(storage: LocalStorage) -> None:
    one = node("real")
    note_failure(one, NodeFailed("real", "ValueError: odd", "frames"), storage)
    (failed,) = look([one], storage, CLAIM).nodes.values()
    assert (failed.state, failed.error) == ("failed", "real failed: ValueError: odd")
    time.sleep(0.05)
    with claimed(storage, CLAIM):
        assert next(iter(look([one], storage, CLAIM).nodes.values())).state == "waiting"
        note_failure(one, NodeFailed("real", "ValueError: odd", "frames"), storage)  # and of this command, too
        assert next(iter(look([one], storage, CLAIM).nodes.values())).state == "failed"
    compute(one, storage.address)
    assert next(iter(look([one], storage, CLAIM).nodes.values())).state == "done"


def test_an_experiment_has_the_owner_of_its_claim(declared: Experiment) -> None:
    assert standing_of(declared).owner is None
    with at_work(declared, "experiment"):
        found = standing_of(declared)
    assert found.owner is not None
    assert found.owner.owner == this_process()
    assert standing_of(declared).owner is None
    waiting = {one.node for one in found.nodes.values() if one.state == "waiting"}
    assert {"data", "train/sr32", "scores/chained/sr32", "search"} <= waiting


def test_the_dead_are_not_at_work(declared: Experiment, holder: Any) -> None:
    from pipeline.session import claim_of

    process = holder(declared.store, claim_of(declared, "experiment"))
    found = standing_of(declared)
    assert found.owner is not None
    assert found.owner.owner.endswith(f":{process.pid}")
    process.kill()
    process.wait()
    assert standing_of(declared).owner is None


@pytest.fixture
def holder() -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def start(store: str, claim: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, store, claim], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "mine"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_trials_of_a_search_that_trains_are_counted(declared: Experiment) -> None:
    from pipeline.search.budget import prefix_of
    from pipeline.tuning.log import TrialLog

    assert declared.search is not None
    log = TrialLog(open_storage(declared.store), prefix_of(declared, declared.search))
    for key in ("a", "b"):
        log.begin(key, "round", {}, 0.0)
    assert standing_of(declared).trials == {"begun": 2}
    assert Nodes(declared).search().digest in standing_of(declared).nodes


def test_looking_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not on this machine"):
        standing_of(load_experiment(DEMO, [f"store={tmp_path / 'nowhere'}"]))
    assert list(tmp_path.iterdir()) == []
