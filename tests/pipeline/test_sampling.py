"""Drawing and measuring a stage: what stays, that who drew leaves no trace, and that what is lost is drawn again."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipeline import parts
from pipeline.classifier import Classifier, save_classifier
from pipeline.dag import Progress, Task
from pipeline.data.datasets import open_examples
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.errors import UserError
from pipeline.judging import real_images
from pipeline.sampling import draw, kept_name, labels_of, refuse_nonfinite
from pipeline.storage import open_storage
from stages.checkpoints import save_checkpoint
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

NET = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
BASE: dict[str, Any] = {"name": "base", "classes": 10, "size": 8, "net": NET}
SR: dict[str, Any] = {
    **BASE,
    "name": "sr",
    "size": 16,
    "low_res_size": 8,
    "low_res_schedule": {},
    "augmentation": {"noise": {"levels": [0.0, 0.4]}},
}
CONFIG: dict[str, Any] = {
    "scorers": [{"kind": "classifier"}],
    "block": 16,
    "sampling": {"steps": 2},
    "oracle": False,
    "labels": "uniform",
    "count": 40,
    "seed": 0,
    "precision": "f32",
    "handed": True,
    "keep": [0.3],
}
MEASURED = {"labels", "features-classifier", "logits-classifier", "top", "colour", "power"}
PREVIEW = {"preview", "preview_labels", "preview_indices"}


def test_two_levels_never_share_a_name() -> None:
    assert kept_name(0.1) == "kept-0.1"
    assert kept_name(1) == kept_name(1.0)
    assert kept_name(0.1) != kept_name(0.1000001)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, two stages and two classifiers that learned nothing."""
    folder = tmp_path_factory.mktemp("trained")
    forms = make_forms([(16, "png")])
    ingest_drawn(folder / "data" / "shards", seed=0, forms=forms, train=50, val=45, shard_size=40)
    training = TrainingSpec(steps=1)
    for number, stage in enumerate([StageSpec.model_validate(BASE), StageSpec.model_validate(SR)]):
        state = TrainState.start(Stage.build(stage), training, seed=number)
        generator = torch.Generator().manual_seed(number)
        for parameter in state.ema.parameters():  # away from the zeros that a net begins with
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        save_checkpoint(folder / stage.name, stage, training, 0, state)
    for seed, role in enumerate(["feature_classifier", "judge"]):
        torch.manual_seed(seed)
        save_classifier(Classifier(channels=[8, 8], blocks=1, classes=10, size=16).eval(), folder / role)
    return folder


def task_of(trained: Path, out: Path, *, inputs: dict[str, Path], workers: int = 1, **changes: Any) -> Task:
    out.mkdir(parents=True, exist_ok=True)
    judges = {role: trained / role for role in ("feature_classifier", "judge")}
    cache = {"cache": str(trained / "cache"), "cache_gb": 1.0}
    context = {"threads": 1, "sampling_workers": workers, "weights": {}, **cache}
    config = {**CONFIG, **changes}
    return Task("drawn", config, {**judges, **inputs}, out, context, open_storage(out), Progress())


def drawn(trained: Path, out: Path, stage: str = "base", **changes: Any) -> Path:
    inputs = {"stage": trained / stage, **changes.pop("inputs", {})}
    draw(task_of(trained, out, inputs=inputs, **changes))
    return out


def arrays(folder: Path) -> dict[str, Any]:
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def same(one: Path, other: Path) -> bool:
    first, second = arrays(one), arrays(other)
    assert set(first) == set(second)
    stats = "stats-features-classifier.npz"
    return all(np.array_equal(first[name], second[name]) for name in first) and all(
        np.array_equal(value, np.load(other / stats)[name]) for name, value in np.load(one / stats).items()
    )


def test_of_the_last_stage_no_image_stays_but_the_preview(trained: Path, tmp_path: Path) -> None:
    below = drawn(trained, tmp_path / "base")
    assert set(arrays(below)) == MEASURED | PREVIEW | {"images", kept_name(0.3)}
    sampling = {"steps": 2, "level": 0.3, "augmentation": "truncated"}
    last = drawn(trained, tmp_path / "sr", "sr", inputs={"below": below}, sampling=sampling, handed=False, keep=[])
    found = arrays(last)
    assert set(found) == MEASURED | PREVIEW | {"consistency"}
    assert {len(found[name]) for name in MEASURED} == {40}
    assert found["preview"].shape == (40, 16, 16, 3)  # at most 80 are shown
    assert found["features-classifier"].shape == (40, 16)
    assert found["top"].shape == (40, 5)
    facts = json.loads((last / "drawn.json").read_text())
    assert facts["extractors"]["classifier"]["name"] == "classifier"
    assert len(facts["extractors"]["classifier"]["sha256"]) == 64
    assert facts["device"] == "cpu"
    # In one process the parts and putting them together are all there is, none of it counted twice.
    assert facts["computing_seconds"] > 0
    assert facts["gathering_seconds"] > 0
    assert facts["computing_seconds"] + facts["gathering_seconds"] <= facts["seconds"]


@pytest.mark.parametrize("largest", [16, 32])
def test_the_size_of_the_parts_leaves_no_trace(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    whole = drawn(trained, tmp_path / "whole")
    monkeypatch.setattr(parts, "PART", largest)
    assert same(whole, drawn(trained, tmp_path / "parts"))


def test_fewer_images_are_the_first_of_more(trained: Path, tmp_path: Path) -> None:
    more, fewer = (arrays(drawn(trained, tmp_path / str(count), count=count)) for count in (40, 21))
    for name in MEASURED | {"images"}:
        assert np.array_equal(more[name][:21], fewer[name])


def test_labels_are_all_in_turn_or_those_of_the_training_images(trained: Path, tmp_path: Path) -> None:
    real = open_examples(trained / "data", "train").labels
    indices = torch.arange(130)
    assert labels_of("uniform", indices, 10, None).tolist() == [index % 10 for index in range(130)]
    assert labels_of("histogram", indices, 10, trained / "data").tolist() == [real[i % 50] for i in range(130)]
    found = drawn(trained, tmp_path, labels="histogram", inputs={"data": trained / "data"}, count=20)
    assert np.array_equal(arrays(found)["labels"], real[:20])


def test_an_oracle_is_given_real_low_res_images(trained: Path, tmp_path: Path) -> None:
    data = {"data": trained / "data"}
    found = arrays(drawn(trained, tmp_path, "sr", inputs=data, oracle=True, handed=False, keep=[], labels="held_out"))
    held_out = open_examples(trained / "data", "val")
    assert np.array_equal(found["labels"], held_out.read(np.arange(40))[1])
    assert set(found) == MEASURED | PREVIEW | {"consistency", "psnr", "ssim", "bicubic_psnr", "bicubic_ssim"}
    assert (found["bicubic_psnr"] > found["psnr"]).all()  # a net that learned nothing
    with pytest.raises(UserError, match="more than the 45 held-out images"):
        drawn(trained, tmp_path / "more", "sr", inputs=data, oracle=True, handed=False, keep=[], count=60)


def test_real_images_are_measured_in_the_same_way(trained: Path, tmp_path: Path) -> None:
    data = {"data": trained / "data"}
    changes = {"split": "train", "size": 8, "count": 50, "kept": 30}
    real_images(task_of(trained, tmp_path, inputs=data, **changes))
    found = arrays(tmp_path)
    assert set(found) == (MEASURED | PREVIEW) - {"logits-classifier"}  # nobody scores the reference
    assert len(found["features-classifier"]) == 30
    assert len(found["labels"]) == len(found["colour"]) == 50
    assert np.load(tmp_path / "stats-features-classifier.npz")["count"] == 50
    pixels, _ = open_examples(trained / "data", "train", size=8).read(np.arange(50))
    assert np.allclose(found["colour"], pixels.mean(axis=(1, 2)) / 255, atol=1e-6)
    with pytest.raises(UserError, match="51 real images of the split train, which holds 50"):
        real_images(task_of(trained, tmp_path / "more", inputs=data, **{**changes, "count": 51}))


def test_images_that_are_no_numbers_are_refused() -> None:
    images = torch.zeros(4, 3, 2, 2)
    refuse_nonfinite(images, "sr", torch.arange(8, 12))
    images[2, 0, 1, 1] = torch.nan
    with pytest.raises(FloatingPointError, match=r"1 of 4 images of stage sr are not finite, .* number 10"):
        refuse_nonfinite(images, "sr", torch.arange(8, 12))


def test_compiled_nets_are_asked_for_in_vain_where_there_is_no_compiler(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    task = task_of(trained, tmp_path / "out", inputs={"stage": trained / "base"})
    with pytest.raises(UserError, match=r"^resources\.compiled_sampling: compiling a net needs a C\+\+ compiler"):
        draw(replace(task, context={**task.context, "compiled_sampling": True}))


@pytest.mark.slow
def test_images_of_compiled_nets_are_drawn_in_parts(trained: Path, tmp_path: Path) -> None:
    plain = drawn(trained, tmp_path / "plain")
    task = task_of(trained, tmp_path / "compiled", inputs={"stage": trained / "base"})
    draw(replace(task, context={**task.context, "compiled_sampling": True}))
    found, expected = (np.load(folder / "images.npy") for folder in (task.out, plain))
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.ray
def test_a_lost_worker_costs_its_part_and_no_bit(trained: Path, tmp_path: Path, ray_cluster: None) -> None:
    """A worker is killed while it draws: its part is drawn again, by another."""
    import ray

    sampling = {"steps": 300}
    calm = drawn(trained, tmp_path / "calm", sampling=sampling)
    killed: list[int] = []
    session = ray._private.worker._global_node.get_session_dir_path()  # there may be other clusters on this machine

    def kill_one() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for raylet in psutil.process_iter(["name", "cmdline"]):
                if raylet.info["name"] != "raylet" or session not in " ".join(raylet.info["cmdline"] or []):
                    continue
                for worker in raylet.children():
                    if "ray::compute_part" in " ".join(worker.cmdline()):
                        worker.kill()
                        killed.append(worker.pid)
                        return
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    lost = drawn(trained, tmp_path / "lost", workers=2, sampling=sampling)
    killer.join()
    assert killed
    assert same(calm, lost)
