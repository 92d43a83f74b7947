"""A whole experiment with its results in a real object store: the bytes of a folder, and other machines find them."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.commits import CommitLog
from pipeline.dag import ancestry, missing, stored
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.leases import Lease, Owner, owner_of_lease, this_process
from pipeline.nodes import Nodes
from pipeline.objects import open_objects
from pipeline.results import Committed
from pipeline.s3_storage import COPIES
from pipeline.session import at_work, claim_of
from pipeline.standing import standing_of
from pipeline.storage import open_storage

TEXT = """\
name: tiny
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8, averages: {every: 2}}
    sampling: {steps: 3}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3, level: 0.1}
evaluation: {samples: 24, reference: 60, block: 16, classifier: {steps: 5, channels: [8, 8]}}
resources: {sampling_workers: 1}
"""
TIMED = {"drawn.json", "history.json"}  # files that say how long something took


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TEXT)
    return tmp_path / "tiny.yaml"


def computed(declared: Path, store: str) -> Experiment:
    """The experiment with everything computed, in this process."""
    experiment = load_experiment(declared, [f"store={store}"])
    execute(Nodes(experiment).evaluation(), open_storage(experiment.store), Silence(), use_ray=False)
    return experiment


def hashes(experiment: Experiment) -> dict[str, dict[str, str]]:
    """sha256 of every file of every result, by node, but of files that say how long something took."""
    storage, found = open_storage(experiment.store), {}
    for node in ancestry(Nodes(experiment).evaluation()):
        result = stored(node, storage)
        assert result is not None, f"{node.name} is missing"
        assert isinstance(result.place, Committed)
        files = result.place.entry.files
        found[node.name] = {name: files[name].sha256 for name in sorted(files) if Path(name).name not in TIMED}
    return found


@pytest.mark.s3
def test_results_in_a_bucket_are_those_of_a_folder(
    s3_store: Any, declared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COPIES, str(tmp_path / "copies"))
    there = computed(declared, f"s3://{s3_store.bucket()}/team/store")
    assert hashes(there) == hashes(computed(declared, str(tmp_path / "store")))

    # Another machine, which has no copies, finds all of it and computes nothing.
    monkeypatch.setenv(COPIES, str(tmp_path / "copies of another machine"))
    storage = open_storage(there.store)
    assert missing(Nodes(there).evaluation(), storage) == []
    sampled = stored(Nodes(there).chained("sr"), storage)
    assert sampled is not None
    assert sampled.file("preview.npy").stat().st_size > 0
    assert len(list((tmp_path / "copies of another machine").rglob("*.npy"))) == 1, "one file was asked for"
    assert storage.list("scratch") == [], "what was left on the way is gone"
    log = CommitLog(storage, Nodes(there).train("base").context["run"], owner="reader", clock=lambda: 0.0)
    assert [entry.info.get("step") for entry in log.entries() if entry.info.get("final")] == [4]


@pytest.mark.s3
def test_a_store_moves_from_a_folder_into_a_bucket_key_by_key(
    s3_store: Any, declared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both use the same keys, so whatever copies files to objects moves a store; and a copied folder is one, too."""
    monkeypatch.setenv(COPIES, str(tmp_path / "copies"))
    first = computed(declared, str(tmp_path / "store"))
    shutil.copytree(tmp_path / "store", tmp_path / "elsewhere")
    address = f"s3://{s3_store.bucket()}/moved"
    bucket = open_objects(address)
    for name, _ in open_objects(str(tmp_path / "store")).names():
        bucket.upload(name, tmp_path / "store" / name)
    for name, _ in bucket.names():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        bucket.fetch(name, tmp_path / "back" / name)
    for place in (str(tmp_path / "elsewhere"), address, str(tmp_path / "back")):
        moved = load_experiment(declared, [f"store={place}"])
        assert missing(Nodes(moved).evaluation(), open_storage(place)) == []
        assert hashes(moved) == hashes(first)
        # A training goes on from its checkpoint there, instead of beginning anew.
        run = Nodes(moved).train("base").context["run"]
        found = CommitLog(open_storage(place), run, owner="reader", clock=lambda: 0.0).latest_whole()
        assert found is not None
        assert found[0].info["step"] == 4


@pytest.mark.s3
def test_where_an_experiment_stands_is_read_from_a_bucket(s3_store: Any, declared: Path, tmp_path: Path) -> None:
    experiment = load_experiment(declared, [f"store=s3://{s3_store.bucket()}/team"])
    storage = open_storage(experiment.store)
    data = Nodes(experiment).data
    assert standing_of(experiment).owner is None
    with at_work(experiment, "experiment"):
        storage.put(f"progress/{data.digest[:16]}.json", json.dumps([30, 120, 10, 20.0]).encode())
        found = standing_of(experiment)
    assert found.owner is not None
    assert found.owner.owner == this_process()
    assert (found.nodes[data.digest].state, found.nodes[data.digest].done) == ("running", 30)
    assert standing_of(experiment).owner is None, "it was released"
    # Another machine's owner that does not beat any more, and was not released.
    prefix, owner = f"claims/{claim_of(experiment, 'experiment')}", Owner(owner="other:1", since=0.0)
    lease = Lease(storage.objects(""), prefix, owner, beat=60.0)
    lease.take(wait=True)
    assert owner_of_lease(storage, lease.prefix) is not None
    time.sleep(3.0)
    assert owner_of_lease(storage, lease.prefix, silence=2.0) is None
    lease.release()
