"""Planning: arithmetic by hand, facts of the data set from where they are known, mistakes in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.cas.spec import CasSpec
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment
from pipeline.machines import GPUS, Machine
from pipeline.planning import data_facts, images_drawn, reckon

NET = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}


def experiment_of(tmp_path: Path, **changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "name": "plan",
        "store": str(tmp_path / "store"),
        "data": {"kind": "drawn", "size": 16, "train": 12000, "val": 4000},
        "stages": {
            "base": {"size": 8, "net": NET, "training": {"steps": 3000, "batch_size": 64}},
            "sr": {
                "size": 16,
                "low_res_size": 8,
                "net": NET,
                "training": {"steps": 10, "batch_size": 32},
                "sampling": {"sampler": "heun", "steps": 5, "guidance": 2.0},
            },
        },
        "resources": {"workers": 4},
    }
    return Experiment.model_validate(fields | changes)


def test_hours_are_flops_over_what_the_machine_gives(tmp_path: Path) -> None:
    figures = reckon(experiment_of(tmp_path), Machine("a100", 0.5))
    base = figures["plan"]["base"]
    flops = base["training_gflops"] * 1e9 * 64 * 3000
    assert base["gpu_hours"] == pytest.approx(flops / (GPUS["a100"].tflops * 1e12 * 0.5) / 3600)
    assert base["hours"] == pytest.approx(base["gpu_hours"] / 4)
    assert base["batch_per_worker"] == 16
    assert base["epochs"] == pytest.approx(3000 * 64 / 12000)
    assert base["state_gib"] == pytest.approx(4 * base["parameters"] * 5 / 2**30)
    assert figures["training_gpu_hours"] == pytest.approx(base["gpu_hours"] + figures["plan"]["sr"]["gpu_hours"])


def test_drawing_counts_every_call_of_the_net(tmp_path: Path) -> None:
    sr = reckon(experiment_of(tmp_path), Machine("h100", 1.0))["plan"]["sr"]
    assert sr["net_calls"] == 2 * (2 * 5 - 1)  # guidance doubles, Heun calls twice but on the last step
    # 1000 on the cascade's own low-res images and as many on real ones
    assert sr["sampling_gpu_hours"] == pytest.approx(sr["forward_gflops"] * 1e9 * 18 * 2000 / 989e12 / 3600)


def test_a_classification_accuracy_score_draws_a_sample_for_every_training_image(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    evaluation = experiment.evaluation.model_copy(update={"cas": CasSpec(), "held_out": 10})
    more = experiment.model_copy(update={"evaluation": evaluation})
    assert images_drawn(more, "base", 12000) == 1000 + 12000
    assert images_drawn(more, "sr", 12000) == 1000 + 10 + 12000


def test_reading_is_images_a_second_times_their_size(tmp_path: Path) -> None:
    figures = reckon(experiment_of(tmp_path), Machine("h100", 0.4))
    base = figures["plan"]["base"]
    assert base["read_mb_per_second"] == pytest.approx(base["images_per_second"] * 16 * 16 * 3 / 1e6)
    assert figures["data"]["shards"] == 3


def test_a_data_set_that_is_there_is_measured(tmp_path: Path) -> None:
    ingest_drawn(tmp_path / "shards", seed=0, forms=make_forms([(16, "png")]), train=40, val=10, shard_size=16)
    there = data_facts(experiment_of(tmp_path, data={"kind": "shards", "path": str(tmp_path / "shards")}))
    size = sum(path.stat().st_size for path in (tmp_path / "shards" / "16-png").glob("train-*.tar"))
    assert (there.train, there.classes, there.shards, there.exact) == (40, 10, 3, True)
    assert there.bytes_per_image == pytest.approx(size / 40)


def test_each_stage_reads_the_form_that_training_reads(tmp_path: Path) -> None:
    """At 8 px the raw form beside the JPEG one, unless the JPEG is to be decoded at half its size."""
    folder = tmp_path / "shards"
    ingest_drawn(folder, seed=0, forms=make_forms([(16, "jpeg"), (8, "raw")]), train=40, val=10, shard_size=16)
    for reduction, forms in (("box", {8: "8-raw", 16: "16-jpeg"}), ("dct", {8: "16-jpeg", 16: "16-jpeg"})):
        there = data_facts(
            experiment_of(tmp_path, data={"kind": "shards", "path": str(folder), "reduction": reduction})
        )
        for size, form in forms.items():
            held = sum(path.stat().st_size for path in (folder / form).glob("train-*.tar"))
            assert there.bytes_read[size] == pytest.approx(held / 40), (reduction, size)


def test_a_data_set_that_is_not_there_is_what_the_experiment_expects(tmp_path: Path) -> None:
    data = {"kind": "images", "source": str(tmp_path / "absent"), "size": 16}
    expected = data_facts(experiment_of(tmp_path, data={**data, "expects": {"train": 9999, "classes": 7}}))
    assert (expected.train, expected.classes, expected.shards, expected.exact) == (9999, 7, 2, False)
    with pytest.raises(UserError, match="say what it will be, as in expects"):
        data_facts(experiment_of(tmp_path, data=data))


def test_a_folder_without_a_manifest_is_no_data_set_yet(tmp_path: Path) -> None:
    data = {"kind": "shards", "path": str(tmp_path), "expects": {"train": 9999, "classes": 7}}
    assert data_facts(experiment_of(tmp_path, data=data)).train == 9999


@pytest.mark.parametrize(("gpu", "utilisation", "message"), [("h300", 0.4, "known are a100"), ("h100", 0.0, "above 0")])
def test_a_machine_that_cannot_be_is_refused(gpu: str, utilisation: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Machine(gpu, utilisation)
