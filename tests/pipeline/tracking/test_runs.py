"""Tracking against a real SQLite store: nothing lost with three writers, runs found again, artifacts in place."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from pipeline.errors import UserError
from pipeline.tracking.addresses import absolute_uri, ui_command
from pipeline.tracking.runs import Tracker

STEPS = 60
WRITER = f"""
import sys
from pipeline.tracking.runs import Tracker
tracker, run_id, first = Tracker(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()  # so that all write at the same time
for step in range({STEPS}):
    tracker.log_metrics(run_id, {{"loss": first + step / 256, "images_per_second": 100.0}}, step)
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: making it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/folder/mlflow.db"


@pytest.fixture(scope="module")
def tracker(uri: str) -> Tracker:
    return Tracker(uri)


@pytest.fixture(scope="module")
def experiment(tracker: Tracker) -> str:
    return tracker.open_experiment("demo")


def _client(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracking_uri=tracker.uri)


def _history(tracker: Tracker, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in _client(tracker).get_metric_history(run_id, name))


def test_opening_twice_gives_the_same_experiment(tracker: Tracker, experiment: str) -> None:
    assert Tracker(tracker.uri).open_experiment("demo") == experiment
    _client(tracker).delete_experiment(experiment)
    assert tracker.open_experiment("demo") == experiment


def test_three_processes_lose_no_metric(tracker: Tracker, experiment: str) -> None:
    mine, shared = [tracker.run(experiment, name=key, kind="stage", key=key) for key in ("writer", "writers")]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tracker.uri, shared, str(first)],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (1, 2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for step in range(STEPS):  # the third
        tracker.log_metrics(mine, {"loss": step / 256}, step)
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert _history(tracker, mine, "loss") == [(step, step / 256) for step in range(STEPS)]
    expected = sorted((step, first + step / 256) for step in range(STEPS) for first in (1, 2))
    assert _history(tracker, shared, "loss") == expected  # two of them even share a run


def test_a_key_finds_its_run_again_under_its_parent(tracker: Tracker, experiment: str) -> None:
    parent = tracker.run(
        experiment, name="demo", kind="experiment", key="p/1", tags={"mlflow.source.git.commit": "abc"}
    )
    child = tracker.run(experiment, name="sr16", kind="stage", key="p/1/sr16", parent=parent)
    tracker.finish(child, "FAILED")
    again = tracker.run(experiment, name="sr16", kind="stage", key="p/1/sr16", parent=parent, tags={"attempt": "2"})
    assert again == child
    run = _client(tracker).get_run(child)
    assert run.info.status == "RUNNING"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["attempt"] == "2"
    assert tracker.run(experiment, name="sr16", kind="stage", key="p/1/sr1") not in (parent, child)
    tracker.finish(child)
    assert _client(tracker).get_run(child).info.status == "FINISHED"


def _times(tracker: Tracker, run_id: str) -> tuple[int, int | None]:
    info = _client(tracker).get_run(run_id).info
    return info.start_time, info.end_time


def test_an_end_stays_where_it_was_unless_the_run_was_open(tracker: Tracker, experiment: str) -> None:
    def open_it(*, reopen: bool) -> str:
        return tracker.run(experiment, name="t", kind="stage", key="times", seconds=90.0, reopen=reopen)

    run_id = open_it(reopen=False)
    tracker.finish(run_id, seconds=90.0)
    begin, end = _times(tracker, run_id)
    assert end == begin + 90_000
    open_it(reopen=False)  # it FINISHED
    tracker.end_open(run_id, "FAILED")
    tracker.finish(run_id)
    assert (_client(tracker).get_run(run_id).info.status, _times(tracker, run_id)) == ("FINISHED", (begin, end))
    time.sleep(0.05)
    open_it(reopen=True)
    tracker.finish(run_id, "FAILED", keep_end=True)
    assert _times(tracker, run_id) == (begin, end)
    open_it(reopen=False)  # it did not
    tracker.end_open(run_id, "KILLED")
    assert _client(tracker).get_run(run_id).info.status == "KILLED"
    later = _times(tracker, run_id)[1]
    assert later is not None
    assert later > end


def test_a_param_keeps_its_first_value_and_the_change_is_tagged(tracker: Tracker, experiment: str) -> None:
    many = {f"net.p{number}": number for number in range(150)}  # more than MLflow takes in one call
    run_id = tracker.run(experiment, name="a", kind="stage", key="params", params={"steps": 800, "rate": 1e-3, **many})
    tracker.run(
        experiment, name="a", kind="stage", key="params", params={"steps": 900, "rate": 1e-3, "new": None, **many}
    )
    data = _client(tracker).get_run(run_id).data
    assert (data.params["steps"], data.params["rate"], data.params["new"]) == ("800", "0.001", "None")
    assert data.params["net.p149"] == "149"
    assert {name: value for name, value in data.tags.items() if "changed" in name} == {"rayfall.changed.steps": "900"}


def test_long_histories_and_not_a_number_go_through(tracker: Tracker, experiment: str) -> None:
    run_id = tracker.run(experiment, name="n", kind="stage", key="long")
    tracker.log_points(run_id, [("loss", 0.5, step, 1000) for step in range(1200)])
    tracker.log_metrics(run_id, {"loss": math.nan}, step=1200)
    history = _history(tracker, run_id, "loss")
    assert len(history) == 1201
    assert math.isnan(history[-1][1])


def test_artifacts_land_beside_the_database(tracker: Tracker, experiment: str, tmp_path: Path) -> None:
    run_id = tracker.run(experiment, name="artifacts", kind="evaluation", key="artifacts")
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[1, 2] = (255, 128, 0)
    report = tmp_path / "report.html"
    report.write_text("<p>done</p>")
    tracker.log_image(run_id, image, "grids/base8.png")
    tracker.log_file(run_id, report)
    tracker.log_file(run_id, report, "old")
    tracker.log_text(run_id, "<svg/>", "figures/loss.svg")
    tracker.log_dict(run_id, {"name": "demo"}, "experiment.json")
    root = Path(tracker.uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts" / "demo" / run_id / "artifacts"
    assert np.array_equal(np.asarray(Image.open(root / "grids/base8.png")), image)
    assert (root / "report.html").read_text() == (root / "old/report.html").read_text() == "<p>done</p>"
    assert (root / "figures/loss.svg").read_text() == "<svg/>"
    assert json.loads((root / "experiment.json").read_text()) == {"name": "demo"}


def test_nothing_of_mlflow_is_left_in_this_process(tracker: Tracker, experiment: str) -> None:
    import os

    import mlflow

    tracker.run(experiment, name="quiet", kind="stage", key="quiet")
    assert mlflow.active_run() is None
    assert not {"MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"} & set(os.environ)


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///store/m.db") == f"sqlite:///{tmp_path}/store/m.db"
    assert absolute_uri("https://mlflow.example.org") == "https://mlflow.example.org"
    for folder in ("mlruns", "file:///x/mlruns", "./mlruns"):
        with pytest.raises(UserError, match=r"use sqlite:///PATH\.db"):
            absolute_uri(folder)


def test_an_address_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_uri("sqlite:///~/store/m.db") == f"sqlite:///{tmp_path}/store/m.db"
    with pytest.raises(UserError, match="give the whole path"):
        absolute_uri("sqlite:///~nobody-of-that-name/m.db")


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("foo://me:secret@bar", "tracking.uri foo://bar cannot be used: "),
        ("sqlite:///{folder}/text.db", "cannot be used: .*file is not a database"),
        ("sqlite:///{folder}/text.db/below/m.db", "cannot be used: .*text.db"),
        ("sqlite+nothing:///x", "tracking.uri sqlite[+]nothing:///x cannot be used: "),
        ("mysql+nosuchdriver://me:secret@host/runs?password=secret", "tracking.uri mysql[+]nosuchdriver://host/runs "),
    ],
)
def test_a_store_that_cannot_be_opened_is_said_in_a_sentence(uri: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("This is no database.\n" * 100)
    with pytest.raises(UserError, match=sentence) as caught:
        Tracker(uri.format(folder=tmp_path)).open_experiment("x")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(find_spec("psycopg") is not None, reason="the driver is there")
def test_a_database_whose_driver_is_missing_is_told_by_the_package() -> None:
    with pytest.raises(UserError, match="postgresql://host/x needs the Python package psycopg"):
        Tracker("postgresql://me:secret@host/x")


def test_the_command_that_opens_the_pages(tmp_path: Path) -> None:
    command = ui_command(f"sqlite:///{tmp_path}/m.db", 5123)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert (
        " ".join(command[4:])
        == f"--backend-store-uri sqlite:///{tmp_path}/m.db --host 127.0.0.1 --port 5123 --workers 1"
    )
    with pytest.raises(UserError, match="open it in a browser"):
        ui_command("http://127.0.0.1:5000", 5123)
