"""Measured files: a forecast gives the measured time again, the nearest figure is chosen, what is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.calibration import BARE, BOTH, ONE, TWO, known_gpu, read_measured
from pipeline.errors import UserError
from pipeline.forecast import BUCKET_BYTES, Load, step_time
from pipeline.forecasting import rates_of
from pipeline.machines import GPUS, Cluster, Machine

H100 = {"type": "cuda", "name": "NVIDIA H100 80GB HBM3"}
CPU = {"type": "cpu", "name": "x86_64 CPU"}


def written(folder: Path, name: str = "bench.json", **changes: Any) -> Path:
    """As ``stages.benchmark`` writes it: 600 images a second of a net of 1.1 TFLOP and 296 M parameters."""
    figures: dict[str, Any] = {
        "device": H100,
        "net": "adm64",
        "kind": "adm",
        "batch": 128,
        "own": {"rayfall bf16": {"precision": "bf16", "compiled": False}},
        "peaks": {"bf16": 7.5e14},
        "rates": {"rayfall bf16 train": 320.0, "memory": 2.5e12},
        "flops": {"rayfall bf16": {"forward": 3.5e11, "training": 1.1e12}},
        "parameters": {"rayfall bf16": 296_000_000},
    }
    file = folder / name
    file.write_text(json.dumps(figures | changes))
    return file


def loop_written(folder: Path, **changes: Any) -> Path:
    """As ``pipeline.benchmark training`` writes it; gradients fill two buckets, exchanged in 0.8 s."""
    figures: dict[str, Any] = {
        "device": CPU,
        "net": "small",
        "batch": 8,
        "precision": "bf16",
        "parameters": 2 * BUCKET_BYTES // 4,
        "rates": {ONE: 10.0, BARE: 10.5, TWO: 10.0, BOTH: 16.0},
        "ratios": {f"{ONE} / {BARE}": [1.05, 1.0, 1.1], f"{TWO} / {BOTH}": [1.6, 1.5, 1.7]},
        "all_reduce_seconds": [0.8, 0.9, 0.7],
    }
    file = folder / "loop.json"
    file.write_text(json.dumps(figures | changes))
    return file


def test_the_measured_batch_takes_the_measured_time_on_that_gpu(tmp_path: Path) -> None:
    (step,) = read_measured([written(tmp_path)]).steps
    rates = rates_of(Machine("h100", 0.4), Cluster((1,)), step)
    assert step_time(Load(1.1e12, 296_000_000, 128), rates, 1).step == pytest.approx(128 / 320.0)
    assert step.gpu == "h100"
    assert "NVIDIA H100 80GB HBM3" in step.where
    assert "128 images a step" in step.where


def test_a_cpu_calibrates_a_share_of_its_own_peak_and_is_called_one(tmp_path: Path) -> None:
    rates = {"rayfall bf16 train": 0.2, "memory": 1e10}
    file = written(tmp_path, device=CPU, batch=1, rates=rates, peaks={"bf16": 4e11})
    (step,) = read_measured([file]).steps
    seconds = 1 / 0.2 - 2 * 5 * 4 * 296e6 / 1e10
    assert step.share == pytest.approx(1.1e12 / (seconds * 4e11))
    assert step.gpu is None
    assert "x86_64 CPU, no GPU" in step.where
    flops = rates_of(Machine("h100", 0.4), Cluster((1,)), step).flops
    assert flops == pytest.approx(step.share * GPUS["h100"].tflops * 1e12)


def test_the_figure_is_of_the_gpu_then_of_the_kind_then_of_the_nearest_flops(tmp_path: Path) -> None:
    cpu = {"device": CPU, "batch": 1, "rates": {"rayfall bf16 train": 0.2, "memory": 1e10}, "peaks": {"bf16": 4e11}}
    files = [
        written(tmp_path, "cpu.json", **cpu),
        written(tmp_path, "a100.json", device={"type": "cuda", "name": "NVIDIA A100-SXM4-80GB"}, batch=100, rates={
            "rayfall bf16 train": 100.0, "memory": 1e12}),
        written(tmp_path, "adm.json"),
        written(tmp_path, "small.json", net="small", flops={"rayfall bf16": {"training": 1.1e10}}),
        written(tmp_path, "uvit.json", net="uvit", kind="uvit"),
    ]  # fmt: skip
    measured = read_measured(files)

    def chosen(kind: str, flops: float, gpu: str) -> str:
        step = measured.step_for(kind, "bf16", flops, gpu)
        assert step is not None
        return step.where

    assert "net adm64" in chosen("adm", 5e11, "h100")
    assert "net small" in chosen("adm", 5e10, "h100")
    assert "net uvit" in chosen("uvit", 1e10, "h100")
    assert "A100" in chosen("adm", 1e10, "a100")
    assert "GPU" not in chosen("adm", 1e12, "h200"), "another GPU says more than a CPU"
    assert measured.step_for("adm", "f32", 1e12, "h100") is None


def test_compiled_steps_speak_for_trainings_that_compile(tmp_path: Path) -> None:
    name = "rayfall bf16 compiled"
    compiled = read_measured([written(
        tmp_path, own={name: {"precision": "bf16", "compiled": True}}, rates={f"{name} train": 400.0, "memory": 2.5e12},
        flops={name: {"training": 1.1e12}}, parameters={name: 296_000_000},
    )])  # fmt: skip
    assert compiled.step_for("adm", "bf16", 1e12, "h100") is None
    found = compiled.step_for("adm", "bf16", 1e12, "h100", compiled=True)
    assert found is not None
    assert "bf16, compiled, on NVIDIA H100" in found.where
    assert compiled.step_for("adm", "bf16", 1e12, "h100", compiled="graphs") is None
    assert read_measured([written(tmp_path)]).step_for("adm", "bf16", 1e12, "h100", compiled=True) is None


def test_a_share_of_float32_counts_where_it_is_one_of_the_data_sheets_peak(tmp_path: Path) -> None:
    f32: dict[str, Any] = {"own": {"rayfall bf16": {"precision": "f32", "compiled": False}}, "peaks": {"f32": 5e13}}
    on_gpu = read_measured([written(tmp_path, **f32)])
    assert on_gpu.step_for("adm", "f32", 1e12, "h100") is not None
    on_cpu = read_measured([written(tmp_path, device=CPU, batch=1, rates={
        "rayfall bf16 train": 0.2, "memory": 1e10}, **f32)])  # fmt: skip
    assert on_cpu.step_for("adm", "f32", 1e12, "h100") is None


def test_the_loop_is_its_ratio_and_what_two_wait_for_is_not_hidden(tmp_path: Path) -> None:
    loop = read_measured([loop_written(tmp_path)]).loop
    assert loop is not None
    assert loop.loop == 1.05
    # Steps of 16 images: 1.6 s for two workers of one, 1.0 s for two trainings, so 0.6 s of 0.8 are waited for; 0.4 of
    # these are the last bucket, which nothing hides, and of the other 0.4 half.
    assert loop.hidden == pytest.approx(0.5)
    assert "x86_64 CPU, no GPU" in loop.where


@pytest.mark.parametrize(
    ("two", "parameters", "hidden"),
    [(16.0, 2 * BUCKET_BYTES // 4, 1.0), (1.0, 2 * BUCKET_BYTES // 4, 0.0), (10.0, 1000, None)],
)
def test_hidden_is_a_share_and_one_bucket_tells_nothing(
    tmp_path: Path, two: float, parameters: int, hidden: float | None
) -> None:
    rates = {ONE: 10.0, BARE: 10.5, TWO: two, BOTH: 16.0}
    loop = read_measured([loop_written(tmp_path, rates=rates, parameters=parameters)]).loop
    assert loop is not None
    assert loop.hidden == hidden


def test_a_loop_faster_than_no_loop_is_chance(tmp_path: Path) -> None:
    ratios = {f"{ONE} / {BARE}": [0.97, 0.9, 1.0]}
    loop = read_measured([loop_written(tmp_path, ratios=ratios)]).loop
    assert loop is not None
    assert loop.loop == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"own": None}, "is of another form"),
        ({"peaks": {}, "device": CPU}, "has no usable 'bf16'"),
        ({"batch": 1, "rates": {"rayfall bf16 train": 1e5, "memory": 1e12}}, "measure a larger --batch"),
        ({"rates": {"rayfall bf16 train": 2000.0, "memory": 1e12}}, "which cannot be"),
    ],
)
def test_a_file_that_cannot_calibrate_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_measured([written(tmp_path, **changes)])


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("fast")
    for name in ("absent", "text"):
        with pytest.raises(UserError, match=r"cannot be read .*; give what python -m stages.benchmark --json FILE"):
            read_measured([tmp_path / name])
    (tmp_path / "list").write_text("[1]")
    with pytest.raises(UserError, match="is of another form"):
        read_measured([tmp_path / "list"])
    with pytest.raises(UserError, match="names 2 files of the loop"):
        read_measured([loop_written(tmp_path), loop_written(tmp_path)])


def test_gpus_are_known_by_what_their_drivers_say() -> None:
    names = {"NVIDIA H100 80GB HBM3": "h100", "Tesla V100-SXM2-32GB": "v100", "NVIDIA L40S": "l40s", "NVIDIA L4": "l4"}
    assert {name: known_gpu(name) for name in names} == names
    assert known_gpu("NVIDIA GeForce RTX 4090") is None
