"""The graph node that trains and tests the classifier by Ray Train, on samples or, for the ceiling, on real images.

The same function does both: ``train`` is a sample set's result or the data node's own. Ray is told of no checkpoint:
workers that start again read our commit log (`pipeline.cas.run`), which lies in the task's scratch folder and is gone
once the result is committed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from pipeline.cas.passport import CasPassport
from pipeline.cas.run import CasRun, CasSettings
from pipeline.cas.spec import CasSpec
from pipeline.commits import CommitLog, Entry
from pipeline.dag import Task
from pipeline.data.datasets import data_place
from pipeline.data.manifest import load_manifest
from pipeline.experiment import digest_of
from pipeline.preemption import announced_to
from pipeline.results import place_of
from pipeline.revision import git_revision
from pipeline.train_workers import Worker, run_workers
from pipeline.worker_settings import told_by
from stages.processor import prepare_processor


def train_cas(task: Task) -> dict[str, Any]:
    """Graph node: the classification accuracy score of the images in ``train``, and the trained net.

    Inputs: ``train`` and ``data`` (real images to test on). Settings: ``cas`` (a CasSpec), ``size`` in px, ``shuffle``
    and ``workers``, whose number is a setting here as batch norms depend on it. Context: beside what places the
    workers, ``stages``, the marks of those that made the samples. Raises UserError where both inputs differ in their
    classes or the net does not suit the size.
    """
    run = f"{task.scratch}/run"
    commits = CommitLog(task.storage, run, owner="reader", clock=time.time)
    found = commits.latest_whole(_is_final)
    if found is None:
        settings, context = vars(_settings(task, run)), {**task.context, "workers": task.config["workers"]}
        name, place = task.scratch.rpartition("/")[2], task.storage.ray_address(f"{task.scratch}/ray-train")
        run_workers(cas_loop, settings, context=context, commits=commits, name=name, place=place)
        found = commits.latest_whole(_is_final)
        assert found is not None, f"{run}: training ended without a final commit"
    entry, folder = found
    assert entry.info["workers"] == task.config["workers"], f"{run}: {entry.info['workers']} workers trained"
    for name in ("net.safetensors", "history.json"):
        os.link(folder / name, task.out / name)
    spec = CasSpec.model_validate(task.config["cas"])
    return {
        **{key: entry.info[key] for key in ("cas_top1", "cas_top5", "images", "seconds")},
        "net": spec.net.words,
        "epochs": spec.epochs,
        "steps": entry.info["step"],
        "size": task.config["size"],
        "workers": task.config["workers"],
        "passport": _passport(task, spec, entry.info).model_dump(mode="json"),
    }


def _passport(task: Task, spec: CasSpec, trained: Mapping[str, Any]) -> CasPassport:
    """What the score is of; ``trained`` is what the last commit says of the training."""
    train, data = (load_manifest(data_place(task.inputs[role]).address).digest for role in ("train", "data"))
    told = {"net", "images", "seed", "precision"}
    return CasPassport(
        source="real" if task.inputs["train"] == task.inputs["data"] else "chained",
        stages=task.context["stages"],
        data=data,
        train_digest=train,
        net=spec.net.words,
        protocol=digest_of(spec.model_dump(mode="json", exclude=told | {"shard_blocks"})),
        images=trained["images"],
        size=task.config["size"],
        seed=spec.seed,
        workers=task.config["workers"],
        precision=spec.precision,
        device=trained["device"],
        revision=git_revision(),
    )


def _is_final(entry: Entry) -> bool:
    return bool(entry.info.get("final"))


def _settings(task: Task, run: str) -> CasSettings:
    return CasSettings(
        **told_by(task, run),
        spec=dict(task.config["cas"]),
        size=task.config["size"],
        train=place_of(task.inputs, "train"),
        val=place_of(task.inputs, "data"),
    )


def cas_loop(config: dict[str, Any], worker: Worker) -> None:
    """What every worker runs: go on from the log, step, test after the last step, commit."""
    settings = CasSettings(**config)
    prepare_processor(settings.threads)
    run = CasRun(settings, rank=worker.rank, world=worker.world, device=worker.device, local_world=worker.local_world)
    run.resume()
    run.train(lambda entry: None, announced_to(worker.world))
