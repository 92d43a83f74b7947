"""The graph node under Ray Train: the score of samples, and the ceiling of real images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cas.passport import CasPassport
from pipeline.cas.run import CasRun, CasSettings
from pipeline.cas.sample_sets import draw_sample_set
from pipeline.cas.training import train_cas
from pipeline.dag import Progress, Task
from pipeline.data.manifest import load_manifest
from pipeline.revision import git_revision
from pipeline.scoring.passport import StageMark
from pipeline.storage import open_storage
from stages.checkpoints import save_checkpoint
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

MakeTask = Callable[..., Task]
MARK = {
    "name": "base",
    "size": 16,
    "weights": "ab" * 32,
    "sampler": "ddpm",
    "steps": 1,
    "guidance": 1.0,
    "guidance_interval": None,
    "augmentation": None,
    "level": None,
    "ema_length": None,
}


@pytest.fixture
def make_task(settings: CasSettings, real: Path) -> MakeTask:
    """A task of a node ``name``, all of one store; how many workers train is a setting, not the context's to say."""
    storage = open_storage(settings.storage)
    context: dict[str, Any] = {"workers": 1, "cpus_per_worker": 1.0, "gpus_per_worker": 0.0}
    context["sampling_workers"] = 1
    keys = ("threads", "loader_processes", "cache", "cache_gb", "cache_users", "log_every", "checkpoint_seconds")
    context |= {key: getattr(settings, key) for key in keys}

    def make(name: str, config: dict[str, Any], stages: tuple[Any, ...] = (), **inputs: Path) -> Task:
        (out := storage.path(f"results/{name}/files")).mkdir(parents=True)
        inputs, own = {"data": real, **inputs}, {**context, "stages": stages}
        return Task(name, config, inputs, out, own, storage, Progress(storage, f"seen/{name}"), f"scratch/{name}")

    return make


@pytest.fixture
def samples(make_task: MakeTask, tmp_path: Path) -> Path:
    """Samples of an untrained stage of 16 px: noise, of which nothing can be learnt."""
    net = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
    spec = StageSpec.model_validate({"name": "base", "classes": 10, "size": 16, "net": net})
    training = TrainingSpec(steps=1, batch_size=2)
    save_checkpoint(tmp_path / "base", spec, training, 0, TrainState.start(Stage.build(spec), training, 0, "cpu"))
    config = {"images": 128, "labels": "histogram", "seed": 0, "block": 16, "precision": "f32", "shard_blocks": 4}
    task = make_task("samples", {"stages": [{"name": "base", "sampling": {"steps": 1}}], **config})
    draw_sample_set(Task(**{**vars(task), "inputs": {**task.inputs, "train base": tmp_path / "base"}}))
    return task.out


@pytest.mark.ray
@pytest.mark.slow
def test_samples_and_real_images_are_scored_by_one_function(
    make_task: MakeTask, settings: CasSettings, real: Path, samples: Path, ray_cluster: None
) -> None:
    config = {"cas": settings.spec, "size": 16, "shuffle": settings.shuffle, "workers": 2}
    ceiling = make_task("real", config, train=real)
    summary = train_cas(ceiling)
    assert summary.pop("seconds") > 0
    assert summary.pop("cas_top1") > 0.9
    assert summary.pop("cas_top5") > 0.95
    passport = CasPassport.model_validate(summary.pop("passport"))
    assert (passport.source, passport.stages, passport.workers, passport.device) == ("real", (), 2, "cpu")
    assert passport.data == passport.train_digest == load_manifest(real / "shards").digest
    words = "small convolutional net 16-32"
    assert summary == {"images": 640, "net": words, "epochs": 15, "steps": 300, "size": 16, "workers": 2}
    *counts, seconds = json.loads(ceiling.storage.read("seen/real"))
    assert counts == [300, 300, 10], "done, of how many, and what was done when it spoke first"
    assert seconds > 0.0, "since then"
    assert {path.name for path in ceiling.out.iterdir()} == {"net.safetensors", "history.json"}
    again = make_task("again", config, train=real)
    assert train_cas(Task(**{**vars(again), "scratch": ceiling.scratch}))["cas_top1"] > 0.9  # found, not trained again

    scored = train_cas(make_task("cas", config, (MARK,), train=samples))
    assert abs(scored["cas_top1"] - 0.1) < 0.15
    assert (scored["images"], scored["steps"]) == (128, 60)


def test_a_sample_set_is_trained_on_like_real_images(settings: CasSettings, samples: Path, real: Path) -> None:
    run = CasRun(CasSettings(**{**vars(settings), "train": str(samples)}), rank=0, world=1, device="cpu")
    run.resume()
    run.train(lambda entry: None)
    assert (run.images, run.step) == (128, 60)
    assert abs(float(run.test()["cas_top1"] or 0.0) - 0.1) < 0.15


def test_a_score_says_what_it_was_measured_on(
    make_task: MakeTask, settings: CasSettings, samples: Path, real: Path
) -> None:
    """A training that is whole in the task's scratch folder is found there, so no worker is started."""
    spec = {**settings.spec, "epochs": 1, "seed": 5}
    task = make_task("cas", {"cas": spec, "size": 16, "workers": 1}, (MARK,), train=samples)
    run = CasRun(CasSettings(**{**vars(settings), "spec": spec, "train": str(samples)}), rank=0, world=1, device="cpu")
    run.resume()
    run.train(lambda entry: None)
    summary = json.loads(json.dumps(train_cas(task)))
    assert summary["workers"] == 1
    passport = CasPassport.model_validate(summary["passport"])
    assert passport.model_dump(mode="json") == {
        "source": "chained",
        "stages": [StageMark.model_validate(MARK).model_dump(mode="json")],
        "data": load_manifest(real / "shards").digest,
        "train_digest": load_manifest(samples / "shards").digest,
        "net": "small convolutional net 16-32",
        "protocol": passport.protocol,
        "images": 128,
        "size": 16,
        "seed": 5,
        "workers": 1,
        "precision": "f32",
        "device": "cpu",
        "revision": git_revision(),
    }


def test_a_training_by_other_workers_is_not_taken_for_ours(make_task: MakeTask, train: Any, real: Path) -> None:
    run = train(spec={"net": {"kind": "small", "channels": [8]}, "crop": None, "epochs": 1, "batch_size": 64})
    config = {"cas": run.spec.model_dump(mode="json"), "size": 16, "workers": 2}
    with pytest.raises(AssertionError, match="1 workers trained"):
        train_cas(make_task("cas", config, train=real))
