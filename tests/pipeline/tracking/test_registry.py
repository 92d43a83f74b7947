"""Registered weights, in a file and on a real MLflow server: one version per point, found and loaded again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.tracking.addresses import ENVIRONMENT, ui_command
from pipeline.tracking.registry import ChosenPoint, register, registered
from pipeline.tracking.runs import Tracker
from stages.checkpoints import load_trained, save_checkpoint
from stages.specs import StageSamplingSpec, StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import TrainState

SPEC = {"size": 8, "classes": 10, "net": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server over HTTP, on a store that no client opens itself."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ui_command(f"sqlite:///{folder}/mlflow.db", port), cwd=folder, env={**os.environ, **ENVIRONMENT},
            stdout=log, stderr=log, process_group=0,
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no answer in time: {log.read_text()}")


@pytest.fixture(scope="module", params=["sqlite", "server"])
def tracker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    if request.param == "server":
        return Tracker(request.getfixturevalue("server"))
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db")


@pytest.fixture(scope="module")
def run(tracker: Tracker) -> str:
    return tracker.run(tracker.open_experiment("found"), name="trial", kind="trial", key="trial")


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> ChosenPoint:
    """Two stages' weights, as results of trainings."""
    folders = {}
    for number, name in enumerate(("base", "sr")):
        spec = StageSpec.model_validate({**SPEC, "name": name})
        training = TrainingSpec(steps=1, batch_size=2)
        folder = tmp_path_factory.mktemp(name) / f"train-{name}-0123" / "files"
        save_checkpoint(folder, spec, training, 0, TrainState.start(Stage.build(spec), training, number, "cpu"))
        folders[name] = str(folder)
    sampling = StageSamplingSpec(steps=7).model_dump(mode="json")
    settings = {"stages.sr.sampling.level": 0.1, "stages.sr.sampling.augmentation": "truncated"}
    return ChosenPoint(folders, {"base": sampling, "sr": sampling}, settings, {"chained_fid": 12.345678901234567})


def test_it_is_found_again_and_its_weights_load(tracker: Tracker, run: str, point: ChosenPoint) -> None:
    assert register(tracker, "found", point, run=run) == "1"
    found = registered(tracker, "found")
    assert found == point
    assert list(found.weights) == ["base", "sr"]  # base first
    for name, folder in found.weights.items():
        loaded = load_trained(Path(folder))
        assert loaded.stage.spec.name == name
        again = load_trained(Path(point.weights[name]))
        assert all(torch.equal(a, b) for a, b in zip(loaded.net.parameters(), again.net.parameters(), strict=True))
        StageSamplingSpec.model_validate(found.sampling[name])


def test_the_same_point_makes_no_second_version_and_its_scores_stay_fresh(
    tracker: Tracker, run: str, point: ChosenPoint
) -> None:
    for fid in (12.0, 11.0):
        number = register(tracker, "again", replace(point, scores={"chained_fid": fid}), run=run)
        assert number == "1"
    assert len(tracker.client.search_model_versions("name = 'again'")) == 1
    assert registered(tracker, "again").scores == {"chained_fid": 11.0}


def test_another_choice_takes_the_alias_and_may_give_it_back(tracker: Tracker, run: str, point: ChosenPoint) -> None:
    other = replace(point, sampling={**point.sampling, "sr": StageSamplingSpec(steps=9).model_dump(mode="json")})
    numbers = [register(tracker, "moved", one, run=run, tags={"rayfall.cell": "a"}) for one in (point, other, point)]
    assert numbers == ["1", "2", "1"]
    assert registered(tracker, "moved") == point
    assert registered(tracker, "moved", "2") == other
    version = tracker.client.get_model_version_by_alias("moved", "chosen")
    assert version.tags["rayfall.cell"] == "a"


def test_the_source_is_the_folder_where_mlflow_takes_it(tracker: Tracker, run: str, point: ChosenPoint) -> None:
    register(tracker, "source", point, run=run)
    version = tracker.client.get_model_version_by_alias("source", "chosen")
    assert version.run_id == run
    if tracker.is_file:
        assert version.source == point.weights["sr"]
    else:
        assert version.source == f"runs:/{run}/cascade"
        path = tracker.client.download_artifacts(run, "cascade/cascade.json")
        assert json.loads(Path(path).read_text())["rayfall.weights.sr"] == point.weights["sr"]
    remote = replace(point, weights={"base": "s3://bucket/base", "sr": "s3://bucket/sr"})
    register(tracker, "source", remote, run=run)
    assert tracker.client.get_model_version_by_alias("source", "chosen").source == "s3://bucket/sr"


def test_what_is_not_there_is_said(tracker: Tracker, run: str, point: ChosenPoint) -> None:
    with pytest.raises(UserError, match="no registered model nothing"):
        registered(tracker, "nothing")
    register(tracker, "one", point, run=run)
    with pytest.raises(UserError, match="no version 7"):
        registered(tracker, "one", "7")


def test_runs_are_kept_in_order_on_both(tracker: Tracker, run: str) -> None:
    """Figures without steps, curves, and tags that only some may keep: each written once however often it is told."""
    opened = tracker.open_experiment("found")
    children = [
        tracker.run(opened, name=key, kind="trial", key=key, parent=run, tags={"rayfall.chosen": "true"}, seconds=90.0)
        for key in ("first", "second")
    ]
    for _ in range(2):
        for child in children:
            tracker.log_figures(child, {"chained_fid": 3.5, "accuracy": 0.5})
            tracker.log_curve(child, "pruning_fid", [(100, 9.0), (300, 7.0)])
            tracker.finish(child, "KILLED", seconds=90.0)
        tracker.keep_tag(opened, run, "rayfall.chosen", children[1:])
    found = [tracker.client.get_run(child) for child in children]
    assert [one.data.tags.get("rayfall.chosen") for one in found] == [None, "true"]
    assert [one.info.status for one in found] == ["KILLED"] * 2
    assert [one.info.end_time - one.info.start_time for one in found] == [90_000] * 2
    for name, points in (("chained_fid", [(0, 3.5)]), ("pruning_fid", [(100, 9.0), (300, 7.0)])):
        history = tracker.client.get_metric_history(children[0], name)
        assert sorted((point.step, point.value) for point in history) == points
    assert tracker.known(opened, "first") == children[0]
    assert tracker.known(opened, "third") is None
