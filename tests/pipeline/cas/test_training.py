"""The graph node under Ray Train: the score of samples, and the ceiling of real images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cas.run import CasRun, CasSettings
from pipeline.cas.sample_sets import draw_sample_set
from pipeline.cas.training import train_cas
from pipeline.dag import Progress, Task
from pipeline.storage import open_storage
from stages.checkpoints import save_checkpoint
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

MakeTask = Callable[..., Task]


@pytest.fixture
def make_task(settings: CasSettings, real: Path) -> MakeTask:
    """A task of a node ``name`` with two workers, all of one store."""
    storage = open_storage(settings.storage)
    context = {"workers": 2, "cpus_per_worker": 1.0, "gpus_per_worker": 0.0, "sampling_workers": 1}
    keys = ("threads", "loader_processes", "cache", "cache_gb", "cache_users", "log_every", "checkpoint_seconds")
    context |= {key: getattr(settings, key) for key in keys}

    def make(name: str, config: dict[str, Any], **inputs: Path) -> Task:
        (out := storage.path(f"results/{name}/files")).mkdir(parents=True)
        scratch = storage.path(f"scratch/{name}")
        return Task(name, config, {"data": real, **inputs}, out, context, storage, Progress(out / "seen"), scratch)

    return make


@pytest.fixture
def samples(make_task: MakeTask, tmp_path: Path) -> Path:
    """Samples of an untrained stage of 16 px: noise, of which nothing can be learnt."""
    net = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
    spec = StageSpec.model_validate({"name": "base", "classes": 10, "size": 16, "net": net})
    training = TrainingSpec(steps=1, batch_size=2)
    save_checkpoint(tmp_path / "base", spec, training, 0, TrainState.start(Stage.build(spec), training, 0, "cpu"))
    config = {"images": 128, "seed": 0, "block": 16, "precision": "f32", "shard_blocks": 4}
    task = make_task("samples", {"stages": [{"name": "base", "sampling": {"steps": 1}}], **config})
    draw_sample_set(Task(**{**vars(task), "inputs": {**task.inputs, "train base": tmp_path / "base"}}))
    return task.out


@pytest.mark.ray
@pytest.mark.slow
def test_samples_and_real_images_are_scored_by_one_function(
    make_task: MakeTask, settings: CasSettings, real: Path, samples: Path, ray_cluster: None
) -> None:
    config = {"cas": settings.spec, "size": 16, "shuffle": settings.shuffle}
    ceiling = make_task("real", config, train=real)
    summary = train_cas(ceiling)
    assert summary.pop("seconds") > 0
    assert summary.pop("cas_top1") > 0.9
    assert summary.pop("cas_top5") > 0.95
    words = "small convolutional net 16-32"
    assert summary == {"images": 640, "net": words, "epochs": 15, "steps": 300, "size": 16}
    assert json.loads((ceiling.out / "seen").read_text()) == [300, 300]
    assert {path.name for path in ceiling.out.iterdir()} == {"net.safetensors", "history.json", "seen"}
    again = make_task("again", config, train=real)
    assert train_cas(Task(**{**vars(again), "scratch": ceiling.scratch}))["cas_top1"] > 0.9  # found, not trained again

    scored = train_cas(make_task("cas", config, train=samples))
    assert abs(scored["cas_top1"] - 0.1) < 0.15
    assert (scored["images"], scored["steps"]) == (128, 60)


def test_a_sample_set_is_trained_on_like_real_images(settings: CasSettings, samples: Path, real: Path) -> None:
    run = CasRun(CasSettings(**{**vars(settings), "train": str(samples)}), rank=0, world=1, device="cpu")
    run.resume()
    run.train(lambda entry: None)
    assert (run.images, run.step) == (128, 60)
    assert abs(float(run.test()["cas_top1"] or 0.0) - 0.1) < 0.15
