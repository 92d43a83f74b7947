"""A small real data set, a cascade, and how the worker's part of a training is run here, without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.cas.run import CasRun, CasSettings
from pipeline.dag import Progress, Task
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.storage import open_storage
from stages.checkpoints import save_checkpoint
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

NET = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
STAGES: dict[str, dict[str, Any]] = {
    "base": {"size": 4},
    "middle": {"size": 8, "low_res_size": 4, "low_res_schedule": {}, "augmentation": {"noise": {"levels": [0.0, 0.3]}}},
    "top": {"size": 16, "low_res_size": 8, "low_res_schedule": {}},
}
SAMPLING = {
    "base": {"steps": 2},
    "middle": {"steps": 2, "augmentation": "truncated", "level": 0.3},
    "top": {"steps": 2},
}
BLOCK = 4

MakeTask = Callable[..., Task]


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a data node: 640 drawn images to train on and 200 held out, 16 px, ten classes."""
    result = tmp_path_factory.mktemp("real")
    forms = make_forms([(16, "png")])
    ingest_drawn(result / "shards", seed=0, forms=forms, train=640, val=200, shard_size=256)
    return result


@pytest.fixture(scope="session")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Results of three stages that were never trained: what is drawn is noise, but always the same."""
    root, training = tmp_path_factory.mktemp("cascade"), TrainingSpec(steps=1, batch_size=2)
    folders = {}
    for seed, (name, fields) in enumerate(STAGES.items()):
        spec = StageSpec.model_validate({"name": name, "classes": 10, "net": NET, **fields})
        state = TrainState.start(Stage.build(spec), training, seed, "cpu")
        generator = torch.Generator().manual_seed(seed)
        for parameter in state.ema.parameters():  # a fresh net draws the same whatever its label
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        folders[name] = root / name
        save_checkpoint(folders[name], spec, training, seed, state)
    return folders


@pytest.fixture
def make_task(cascade: dict[str, Path], real: Path, tmp_path: Path) -> MakeTask:
    """A task that draws 26 samples in shards of 8; each in a store of its own."""

    def make(store: str, context: dict[str, Any] | None = None, out: str = "out", **changes: Any) -> Task:
        storage = open_storage(tmp_path / store)
        (folder := storage.path(out)).mkdir(parents=True)
        stages = [{"name": name, "sampling": sampling} for name, sampling in SAMPLING.items()]
        config = {"images": 26, "labels": "histogram", "seed": 3, "block": BLOCK, "precision": "f32", "shard_blocks": 2}
        inputs = {"data": real, **{f"train {name}": path for name, path in cascade.items()}}
        context = {"threads": 1, "sampling_workers": 1} | (context or {})
        return Task(
            "cas_samples/x",
            {"stages": stages, **config, **changes},
            inputs,
            folder,
            context,
            storage,
            Progress(),
            "scratch/x",
        )

    return make


@pytest.fixture
def without_class(cascade: dict[str, Path], tmp_path: Path) -> Callable[[str, int], dict[str, Path]]:
    """Inputs with a copy of a stage that draws NaN of one class."""

    def break_stage(stage: str, label: int) -> dict[str, Path]:
        broken = tmp_path / f"broken-{stage}"
        shutil.copytree(cascade[stage], broken)
        for path in broken.rglob("*.safetensors"):
            tensors = load_file(path)
            for name in tensors:
                if name.endswith("label.weight"):
                    tensors[name][label] = float("nan")
            save_file(tensors, path)
        return {f"train {stage}": broken}

    return break_stage


@pytest.fixture
def settings(real: Path, tmp_path: Path) -> CasSettings:
    """Settings of a training that takes a second and learns the classes; the store is the test's own folder."""
    spec = {
        "net": {"kind": "small", "channels": [16, 32]},
        "epochs": 15,
        "batch_size": 32,
        "learning_rate": 6.4,
        "crop": None,
        "flip": False,
        "precision": "f32",
    }
    return CasSettings(
        spec=spec,
        size=16,
        train=str(real),
        val=str(real),
        shuffle={"window": 16, "lanes": 1},
        storage=str(tmp_path / "store"),
        run="scratch/cas/run",
        threads=1,
        loader_processes=0,
        cache=str(tmp_path / "cache"),
        cache_gb=1.0,
        cache_users=1,
        log_every=10,
        checkpoint_seconds=1e9,
        progress=None,
    )


@pytest.fixture
def train(settings: CasSettings) -> Callable[..., CasRun]:
    """Runs the loop to its end in this process, with some settings changed."""

    def run(stop_after: int | None = None, **changes: object) -> CasRun:
        """``stop_after`` commits, it is left by an exception as a killed worker leaves it."""
        one = CasRun(replace(settings, **changes), rank=0, world=1, device="cpu")  # type: ignore[arg-type]
        one.resume()
        commits = 0

        def report(entry: object) -> None:
            nonlocal commits
            commits += 1
            if commits == stop_after:
                raise KeyboardInterrupt

        one.train(report)
        return one

    return run
