"""Commands whose MLflow server is lost: refused at the start, put up with later, made good by the same command."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import workflow
from pipeline.ablation.opened_runs import OpenedAblation
from pipeline.ablation.run import Ablation
from pipeline.ablation.workflow import tracked
from pipeline.commits import CommitLog
from pipeline.errors import UserError
from pipeline.events import Silence
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.session import Session
from pipeline.storage import open_storage
from pipeline.tracking.journal import Journal, points_of
from pipeline.tracking.runs import Tracker

pytestmark = pytest.mark.faults
WHEN = 1_700_000_000_000
TEXT = """\
name: tiny
data: {kind: drawn, size: 8, train: 64, val: 64}
evaluation: {samples: 64, held_out: 64, reference: 64}
resources: {log_every: 5, checkpoint_seconds: 0.01, sampling_workers: 1}
stages:
  base: {size: 8, net: {kind: unet, channels: 8, multipliers: [1], blocks: 1}, training: {steps: 20, batch_size: 8}}
"""


class Heard(Silence):
    """What a person is told; ``proxy`` is cut off when the training starts, if asked for."""

    def __init__(self, proxy: Any = None) -> None:
        self.lines: list[str] = []
        self.proxy = proxy

    def message(self, text: str) -> None:
        self.lines.append(text)

    def started(self, node: str) -> None:
        if self.proxy is not None and node == "train/base":
            self.proxy.faults.unavailable = 1.0


@pytest.fixture(scope="module")
def server(mlflow_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mlflow_server(tmp_path_factory.mktemp("server"))


@pytest.fixture
def proxy(server: Any, proxy_before: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return proxy_before(server.uri)


@pytest.fixture
def experiment(tmp_path: Path, proxy: Any, request: pytest.FixtureRequest) -> Experiment:
    (tmp_path / "tiny.yaml").write_text(TEXT)
    told = [f"store={tmp_path}/store", f"tracking.uri={proxy.endpoint}", f"name={request.node.name[:40]}"]
    return load_experiment(tmp_path / "tiny.yaml", told)


def losses(uri: str, run: str) -> list[tuple[int, float, int]]:
    found = Tracker(uri).client.get_metric_history(run, "loss")
    return sorted((point.step, point.value, point.timestamp) for point in found)


def command(experiment: Experiment, steps: Sequence[int] = ()) -> tuple[str, list[str]]:
    """One that trains some steps of "base"; its run, and what a person is told."""
    heard = Heard()
    with Session(experiment, heard) as session:
        run = session.track(["base"]).tracking.runs["base"]
        for step in steps:
            Journal(session.storage, run).append(points_of(step, {"loss": 1 / step}, WHEN + step))
    return run, heard.lines


def test_without_a_server_nothing_is_begun_but_what_was_begun_goes_on(
    experiment: Experiment, proxy: Any, server: Any
) -> None:
    proxy.faults.unavailable = 1.0
    with pytest.raises(UserError, match=r"^tracking.uri http://127.0.0.1:\d+ cannot be used: .*503"):
        command(experiment)
    proxy.faults.unavailable = 0.0
    run, told = command(experiment, [1])
    assert not told
    proxy.faults.unavailable = 1.0
    for kept, step in enumerate((2, 3), start=1):
        assert command(experiment, [step]) == (
            run,
            [
                f"MLflow at {proxy.endpoint} does not answer; {kept} metrics are kept in {experiment.store}, with all "
                "results: repeat the command when it does, which computes nothing again and sends what is missing"
            ],
        )
    proxy.faults.unavailable = 0.0
    log = CommitLog(open_storage(experiment.store), Nodes(experiment).train("base").key, owner="me", clock=time.time)
    name, folder = log.new_folder("files")
    entries = [{"step": step, "time": WHEN + step, "loss": 1 / step} for step in range(1, 5)]
    (folder / "history.json").write_text(json.dumps(entries))
    log.commit(name, {"source": "", "summary": {"seconds": 90.0}, "seconds": 1.0})
    assert command(experiment) == (run, [])
    assert losses(server.uri, run) == [(step, 1 / step, WHEN + step) for step in range(1, 5)]
    assert Tracker(server.uri).client.get_run(run).info.status == "FINISHED"


def test_runs_of_another_server_are_not_taken_for_those_of_this(experiment: Experiment, proxy: Any) -> None:
    command(experiment)
    proxy.faults.unavailable = 1.0
    elsewhere = proxy.endpoint.replace("127.0.0.1", "localhost")
    moved = experiment.model_copy(update={"tracking": experiment.tracking.model_copy(update={"uri": elsewhere})})
    with pytest.raises(UserError, match="cannot be used"):
        command(moved)


CELLS = """\
ablation: {baseline: slow, seeds: [0, 1, 2], cells: {slow: {}, fast: {stages.base.training.learning_rate: 0.01}}}
"""


def ablate(experiment: Experiment, step: int, proxy: Any = None) -> tuple[OpenedAblation, list[str]]:
    """A command that trains a step of each replicate; its runs, and what is told. ``proxy`` is cut off then."""
    told: list[str] = []
    with tracked(Ablation.of(experiment), told.append) as runs:
        for run in runs.opened.trainings:
            Journal(runs.ablation.storage, run).append(points_of(step, {"loss": 1 / step}, WHEN + step))
        if proxy is not None:
            proxy.faults.unavailable = 1.0
    return runs.opened, told


def test_an_ablation_goes_on_without_its_server_as_a_run_does(
    experiment: Experiment, tmp_path: Path, proxy: Any, server: Any
) -> None:
    (tmp_path / "cells.yaml").write_text(TEXT + CELLS)
    told = [f"store={experiment.store}", f"tracking.uri={proxy.endpoint}", "name=cells"]
    compared = load_experiment(tmp_path / "cells.yaml", told)
    proxy.faults.unavailable = 1.0
    with pytest.raises(UserError, match=r"^tracking.uri http://127.0.0.1:\d+ cannot be used: .*503"):
        ablate(compared, 1)
    proxy.faults.unavailable = 0.0
    first, lines = ablate(compared, 1, proxy)  # lost in the middle
    assert len(first.trainings) == len(first.trials) == 6
    assert [line[: line.index(" metrics")] for line in lines] == [f"MLflow at {proxy.endpoint} does not answer; 6"]
    again, lines = ablate(compared, 2)  # begun without it
    assert (again.parent, again.trials, again.tracking) == (first.parent, first.trials, first.tracking)
    assert [line[: line.index(" metrics")] for line in lines] == [f"MLflow at {proxy.endpoint} does not answer; 12"]
    proxy.faults.unavailable = 0.0
    last, lines = ablate(compared, 3)
    assert (last.parent, last.trials, last.tracking, lines) == (first.parent, first.trials, first.tracking, [])
    for run in first.trainings:
        assert losses(server.uri, run) == [(step, 1 / step, WHEN + step) for step in (1, 2, 3)]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_training_goes_on_without_its_server_and_the_same_command_tells_it_all(
    experiment: Experiment, proxy: Any, server: Any
) -> None:
    heard = Heard(proxy)
    figures = workflow.run(experiment, "train", events=heard)
    assert figures["stages"]["base"]["step"] == 20
    assert [line for line in heard.lines if "does not answer; 24 metrics are kept" in line]  # 4 steps of 6 metrics
    (run,) = open_storage(experiment.store).list("tracking/metrics")
    assert losses(server.uri, run) == []
    proxy.faults.unavailable = 0.0
    again = Heard()
    workflow.run(experiment, "train", events=again)
    assert again.lines == []  # Ray was not even started
    trained = workflow.stored(Nodes(experiment).train("base"), open_storage(experiment.store))
    assert trained is not None
    history = json.loads((trained.folder / "history.json").read_text())
    assert losses(server.uri, run) == [(one["step"], one["loss"], one["time"]) for one in history]
    assert Tracker(server.uri).client.get_run(run).info.status == "FINISHED"
