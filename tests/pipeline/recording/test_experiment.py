"""The runs of a command on an experiment: how they end, whatever ends the command, and how long they last."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.commits import CommitLog
from pipeline.errors import UserError
from pipeline.events import Silence
from pipeline.experiment import load_experiment, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.recording.identity import declared_identity
from pipeline.session import Session
from pipeline.storage import open_storage
from pipeline.tracking.addresses import tracking_uri
from pipeline.tracking.runs import Tracker

TEXT = """\
name: tiny
data: {kind: drawn, size: 16}
stages:
  base: {size: 8, net: {kind: unet, channels: 8}, training: {steps: 20, batch_size: 8}}
  sr: {size: 16, low_res_size: 8, net: {kind: unet, channels: 8}, training: {steps: 20, batch_size: 8}}
"""
RATE = "stages.base.training.learning_rate"
SEARCHED = f"search: {{samples: 400, space: {{{RATE}: {{values: [0.001, 0.002]}}}}}}\n"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store of MLflow's, which takes seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "m.db"
    Tracker(f"sqlite:///{path}").open_experiment("other")
    return path


@pytest.fixture
def experiment(tmp_path: Path, database: Path) -> Experiment:
    (tmp_path / "tiny.yaml").write_text(TEXT)
    shutil.copy(database, tmp_path / "m.db")
    return load_experiment(
        tmp_path / "tiny.yaml", [f"store={tmp_path}", "tracking.uri=sqlite:///" + f"{tmp_path}/m.db"]
    )


def train(experiment: Experiment, name: str, loss: float = 0.5) -> None:
    """Have the result of a training stored that took 90 s."""
    log = CommitLog(open_storage(experiment.store), Nodes(experiment).train(name).key, owner="me", clock=time.time)
    file, folder = log.new_folder("files")
    (folder / "history.json").write_text(json.dumps([{"step": 10, "loss": loss}]))
    log.commit(file, {"source": "", "summary": {"seconds": 90.0}, "seconds": 1.0})


def runs(experiment: Experiment) -> dict[str, Run]:
    client = MlflowClient(tracking_uri=tracking_uri(experiment))
    opened = client.get_experiment_by_name(experiment.name)
    assert opened is not None
    return {run.info.run_name: run for run in client.search_runs([opened.experiment_id])}


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (RuntimeError, "FAILED")])
def test_what_ends_a_command_ends_what_is_open_and_no_training_that_is_stored(
    experiment: Experiment, error: type[BaseException], status: str
) -> None:
    def command() -> None:
        with Session(experiment, Silence()) as session:
            session.track(experiment.names)
            assert {run.info.status for run in runs(experiment).values()} == {"RUNNING"}
            train(experiment, "base")
            raise error

    with pytest.raises(error):
        command()
    found = runs(experiment)
    ended = {name: run.info.status for name, run in found.items()}
    assert ended == {"tiny": status, "train/base": "FINISHED", "train/sr": status}
    assert found["train/base"].data.metrics["loss"] == 0.5


def test_what_keeps_ray_from_ending_keeps_no_run_open(experiment: Experiment) -> None:
    def end_of_ray() -> None:
        raise KeyboardInterrupt

    def command() -> None:
        with Session(experiment, Silence()) as session:
            session.track(["base"])
            session.stack.callback(end_of_ray)
            raise ValueError

    with pytest.raises(KeyboardInterrupt):
        command()
    assert {run.info.status for run in runs(experiment).values()} == {"FAILED"}


def test_what_ends_a_command_while_its_runs_are_opened_ends_those_that_are(experiment: Experiment) -> None:
    with pytest.raises(KeyError), Session(experiment, Silence()) as session:
        session.track(["base", "no_stage"])
    assert {name: run.info.status for name, run in runs(experiment).items()} == {
        "tiny": "FAILED",
        "train/base": "FAILED",
    }


def test_ray_is_started_first_where_something_is_to_be_trained(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Session) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "start_ray", interrupted)
    with pytest.raises(KeyboardInterrupt), Session(experiment, Silence()) as session:
        session.begin(["base"])
    client = MlflowClient(tracking_uri=tracking_uri(experiment))
    assert client.get_experiment_by_name(experiment.name) is None, "no run was begun that nobody would end"
    train(experiment, "base")
    with Session(experiment, Silence()) as session:  # Ray is not needed for what is stored
        assert set(session.begin(["base"]).tracking.runs) == {"base"}


@pytest.mark.parametrize("setting", ["compile", "compiled_sampling"])
def test_a_missing_compiler_is_told_before_anything_starts(
    experiment: Experiment, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    asked = with_settings(experiment, {f"resources.{setting}": True})
    refused = pytest.raises(UserError, match=rf"^resources\.{setting}: compiling a net needs a C\+\+ compiler")
    with refused, Session(asked, Silence()) as session:
        session.begin(["base"])
    assert not session.on_ray


def test_a_server_that_is_not_there_is_told_before_ray_is_started(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[Session]()
    monkeypatch.setattr(Session, "start_ray", lambda session: started.append(session))
    nowhere = with_settings(experiment, {"tracking.uri": "http://127.0.0.1:9"})
    refused = pytest.raises(UserError, match=r"tracking\.uri http://127\.0\.0\.1:9 cannot be used")
    with refused, Session(nowhere, Silence()) as session:
        session.begin(["base"])
    assert not started


def test_a_run_that_cannot_be_ended_keeps_no_other_open_and_hides_no_error(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    def command(error: Exception | None) -> None:
        with Session(experiment, Silence()) as session:
            session.track(experiment.names)
            (lost,) = [run.info.run_id for name, run in runs(experiment).items() if name == "train/sr"]
            assert session.runs is not None
            session.runs.tracking.runs["sr"] = "0" * 32  # type: ignore[index]
            Tracker(tracking_uri(experiment)).finish(lost)
            if error is not None:
                raise error

    with pytest.raises(ValueError, match="what ended it"):
        command(ValueError("what ended it"))
    assert "runs in MLflow may stay open" in caplog.text
    ended = {name: run.info.status for name, run in runs(experiment).items()}
    assert ended == {"tiny": "FAILED", "train/base": "FAILED", "train/sr": "FINISHED"}
    with pytest.raises(MlflowException):
        command(None)
    ended = {name: run.info.status for name, run in runs(experiment).items()}
    assert ended == {"tiny": "FINISHED", "train/base": "FINISHED", "train/sr": "FINISHED"}


def test_weights_that_are_signed_anew_are_the_same_experiment(experiment: Experiment) -> None:
    def identity(**weights: str) -> str:
        return declared_identity(with_settings(experiment, {"evaluation.scorer": {"kind": "inception", **weights}}))

    signed = identity(weights="https://host/w.pth?signature=one")
    assert signed == identity(weights="https://host/w.pth?signature=two")
    assert signed != identity(weights="https://host/v.pth?signature=one")
    known = identity(weights="https://host/w.pth", sha256="ab" * 32)
    assert known == identity(weights="/here/w.pth", sha256="ab" * 32)
    assert known != identity(weights="/here/w.pth", sha256="cd" * 32)


def test_a_command_that_computes_nothing_changes_no_status_and_adds_no_time(experiment: Experiment) -> None:
    times = []
    train(experiment, "base")
    for _ in range(2):
        with Session(experiment, Silence()) as session:
            session.track(["base"])
        found = runs(experiment)
        assert {name: run.info.status for name, run in found.items()} == {"tiny": "FINISHED", "train/base": "FINISHED"}
        times.append({name: (run.info.start_time, run.info.end_time) for name, run in found.items()})
        time.sleep(0.05)
    assert times[0] == times[1]
    begin, end = times[0]["train/base"]
    assert end - begin == 90_000
    assert end <= time.time() * 1000  # it began before this command


def test_a_command_that_computed_something_ends_the_parent_anew(experiment: Experiment) -> None:
    ends = []
    for _ in range(2):
        with Session(experiment, Silence()) as session:
            session.track([])
            session.journal.computed.add("data")
        ends.append(runs(experiment)["tiny"].info.end_time)
        time.sleep(0.05)
    assert ends[0] < ends[1]


def test_a_run_of_a_stage_has_the_curve_of_the_training_that_its_params_are_of(experiment: Experiment) -> None:
    """What a search chose instead has its own run, under its trial."""
    train(experiment, "base", loss=0.5)
    train(with_settings(experiment, {RATE: 0.002}), "base", loss=0.25)
    with Session(experiment, Silence()) as session:
        session.track(["base"])
    found = runs(experiment)["train/base"]
    assert found.data.metrics["loss"] == 0.5
    assert float(found.data.params["training.learning_rate"]) != 0.002


def test_a_stage_whose_training_is_searched_has_no_run_of_its_own(tmp_path: Path, database: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TEXT + SEARCHED)
    shutil.copy(database, tmp_path / "mlflow.db")
    experiment = load_experiment(tmp_path / "tiny.yaml", [f"store={tmp_path}"])
    with Session(experiment, Silence()) as session:
        assert session.declared == ["sr"]
        session.track(session.declared)
        assert "tracking_run" not in session.nodes.train("base").context
        assert "tracking_run" in session.nodes.train("sr").context


def test_settings_are_kept_without_a_password(experiment: Experiment) -> None:
    weights = "https://host/w.pth?signature=secret"
    scorer = {"kind": "inception", "weights": weights, "sha256": "ab" * 32}
    signed = with_settings(experiment, {"evaluation.scorer": scorer})
    with Session(signed, Silence()) as session:
        made = session.track([])
    folder = Path(Tracker(tracking_uri(signed)).client.get_run(made.parent).info.artifact_uri.removeprefix("file://"))
    kept = (folder / "experiment.json").read_text()
    assert "https://host/w.pth" in kept
    assert "secret" not in kept
