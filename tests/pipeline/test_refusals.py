"""What a worker would meet again ends training at once and reaches the person as it is; a crash is retried as ever."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline import workflow
from pipeline.commits import CommitLog
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.errors import UserError
from pipeline.events import Silence
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.storage import open_storage

TEXT = """\
name: refusing
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 12, batch_size: 8}
resources: {cpus_per_worker: 0.5, log_every: 1, checkpoint_seconds: 0.001}
"""


def load(folder: Path, *overrides: str) -> Experiment:
    (folder / "refusing.yaml").write_text(TEXT)
    data = f"data={{kind: shards, path: {folder / 'set'}}}"
    return load_experiment(folder / "refusing.yaml", [f"store={folder / 'store'}", data, *overrides])


def test_the_lowest_rank_that_refused_ends_the_run_and_other_errors_do_not() -> None:
    from pipeline.refusals import EndOnRefusal

    first, second = UserError("the first"), UserError("the second")
    EndOnRefusal().after_exception(None, {0: RuntimeError("a crash"), 1: ValueError("no refusal")})
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        EndOnRefusal().after_exception(None, {0: FloatingPointError("the loss is nan")})
    with pytest.raises(UserError, match="the first"):
        EndOnRefusal().after_exception(None, {3: second, 0: RuntimeError("lost its peers"), 2: first})


def test_only_a_refusal_is_found_behind_a_failure() -> None:
    from ray.train import ControllerError, WorkerGroupError

    from pipeline.refusals import refusal_behind

    def seen(failure: Any) -> UserError | None:
        return refusal_behind(pickle.loads(pickle.dumps(failure)))  # as Ray hands it on

    found = seen(ControllerError(UserError("a sentence")))
    assert isinstance(found, UserError)
    assert str(found) == "a sentence"
    assert seen(ControllerError(ValueError("another"))) is None
    assert seen(WorkerGroupError("crashes", {0: RuntimeError("a crash")})) is None


def starts_of(experiment: Experiment) -> int:
    """How often workers were started: each group takes the run over once."""
    log = CommitLog(
        open_storage(experiment.store), Nodes(experiment).train("base").context["run"], owner="test", clock=None
    )
    return len([entry for entry in log.entries() if entry.kind == "takeover"])


@pytest.mark.ray
@pytest.mark.slow
def test_a_damaged_shard_ends_all_workers_at_once_and_the_mended_set_trains(tmp_path: Path, ray_cluster: None) -> None:
    """One of two workers meets the damage, on the way: the other waits for its gradients and must end as well."""
    ingest_drawn(tmp_path / "set", seed=0, forms=make_forms([(8, "raw")]), train=64, val=8, shard_size=64)
    (shard,) = (tmp_path / "set").glob("*/train-*.tar")
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        last = tar.getmember("00000032.npy")
        byte = last.offset_data + last.size - 1
    shard.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :])
    experiment = load(tmp_path, "resources.workers=2")
    with pytest.raises(UserError, match=r"example 32 .* was altered"):
        workflow.run(experiment, "train", events=Silence())
    assert starts_of(experiment) == 1
    # Nothing of the refusal stays: the same run goes on once the shard is whole.
    shard.write_bytes(whole)
    found = workflow.run(experiment, "train", events=Silence())
    assert found["stages"]["base"]["step"] == 12
    assert starts_of(experiment) == 2


@pytest.mark.ray
@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all_workers_at_once(tmp_path: Path, ray_cluster: None) -> None:
    from pipeline.dag import NodeFailed

    ingest_drawn(tmp_path / "set", seed=0, forms=make_forms([(8, "raw")]), train=64, val=8, shard_size=64)
    diverging = ("stages.base.training.learning_rate=1e30", "stages.base.training.warmup=0", "resources.workers=2")
    experiment = load(tmp_path, *diverging)
    with pytest.raises(NodeFailed, match="the loss is"):
        workflow.run(experiment, "train", events=Silence())
    assert starts_of(experiment) == 1
    assert len(list((tmp_path / "store/failures").glob("runs-*-step-*.json"))) == 1
