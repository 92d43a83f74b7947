"""A whole experiment on hosts that share nothing but a network: stages on different ones, S3 and MLflow over it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.dag import ancestry, stored
from pipeline.experiment import load_experiment, with_settings
from pipeline.nodes import Nodes
from pipeline.results import Committed
from pipeline.storage import open_storage

TEXT = """\
name: tiny
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 40, batch_size: 8}
    sampling: {steps: 3}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 40, batch_size: 8}
    sampling: {steps: 3, level: 0.1}
evaluation: {samples: 24, reference: 60, block: 16, classifier: {steps: 5, channels: [8, 8]}}
resources: {cpus_per_worker: 1.0}
"""


DEMO = Path(__file__).parents[2] / "jobs" / "experiments" / "demo.yaml"


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("text", [TEXT, DEMO.read_text()], ids=["tiny", "demo"])
def test_stages_train_on_different_hosts_and_results_and_runs_travel_over_the_network(
    text: str, hosts: Any, s3_store: Any, mlflow_server: Any, proxy_at: Any, tmp_path: Path
) -> None:
    store = f"s3://{s3_store.bucket()}/team/store"
    gateway, server = proxy_at(s3_store.endpoint, hosts.gateway), mlflow_server(tmp_path / "mlflow")
    tracking = proxy_at(server.uri, hosts.gateway).endpoint
    hosts.environment = {
        **hosts.environment,
        **s3_store.environment,
        "AWS_ENDPOINT_URL": gateway.endpoint,
        "RAYFALL_COPIES": f"{hosts.folder}/disk/copies",
    }
    (tmp_path / "asked.yaml").write_text(text)
    settings = [f"store={store}", f"tracking.uri={tracking}"]
    head = hosts.start_head()
    for name in ("left", "right"):
        hosts.start_worker(name, head)

    asked = [part for one in (*settings, f"resources.address={head.address}:6379") for part in ("--set", one)]
    rayfall = str(Path(sys.executable).with_name("rayfall"))
    told = head.run(rayfall, "run", str(tmp_path / "asked.yaml"), *asked, environment=hosts.environment, timeout=1200)

    experiment = load_experiment(tmp_path / "asked.yaml", settings)
    report = f"reports/{experiment.name}/report.html"
    assert f"report: {store}/{report}" in told
    storage, owners = open_storage(store), {}
    search = stored(Nodes(experiment).search(), storage) if experiment.search else None
    chosen = with_settings(experiment, search.summary["chosen"]) if search else experiment
    for node in ancestry(Nodes(chosen).evaluation()):
        result = stored(node, storage)
        assert result is not None, f"{node.name} is missing"
        assert isinstance(result.place, Committed)
        owners[node.name] = result.place.entry.owner.partition(":")[0]
    assert {owners[f"train/{name}"] for name in experiment.names} == {"left", "right"}, "on either host"
    assert {owners["classifier/features"], owners["classifier/judge"]} <= {"left", "right"}, "the head has no processor"
    assert storage.exists(report)

    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    (found,) = client.search_experiments(filter_string=f"name = '{experiment.name}'")
    runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name, stage in experiment.stages.items():
        curve = client.get_metric_history(runs[f"train/{name}"].info.run_id, "loss")
        steps, every = stage.training.steps, experiment.resources.log_every
        assert [point.step for point in curve] == [*range(every, steps, every), steps]
    assert "report.html" in [file.path for file in client.list_artifacts(runs[experiment.name].info.run_id)]
