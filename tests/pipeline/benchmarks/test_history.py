"""Figures of a benchmark in a real MLflow store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import benchmark
from pipeline.benchmarks.history import HISTORY, log_benchmark, numbers_in


def test_numbers_are_found_by_their_path() -> None:
    figures = {"ratios": {"a (x) / b": [0.5, 0.25]}, "machine": "x86", "quick": True, "n": 3, "none": None}
    assert dict(numbers_in(figures)) == {"ratios/a _x_ over b/0": 0.5, "ratios/a _x_ over b/1": 0.25, "n": 3.0}


def test_each_time_is_a_run_of_its_own(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for seconds in (2.0, 1.0):
        log_benchmark(uri, "features", {"repeats": 5, "json": None}, {"machine": "a big one", "seconds": seconds})
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(HISTORY)
    assert found is not None
    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time"])
    assert [run.data.metrics for run in runs] == [{"seconds": 2.0}, {"seconds": 1.0}]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert runs[0].data.params == {"repeats": "5"}
    assert runs[0].data.tags["rayfall.machine"] == "a big one"
    assert len(runs[0].data.tags["rayfall.revision"]) >= 7


def test_the_steps_are_logged_by_one_command(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    asked = ["steps", "--net", "demo", "--batch", "2", "--repeats", "1", "--precision", "f32", "--device", "cpu"]
    benchmark.main([*asked, "--mlflow", uri])
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(HISTORY)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    assert run.data.params["net"] == "demo"
    assert run.data.metrics["rates/rayfall f32 train"] > 0
    assert run.data.metrics["parameters/rayfall f32"] == 1_300_563
