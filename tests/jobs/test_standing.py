"""`rayfall status` of a file: its store is asked, no cluster; every mistake is a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.dag import NodeFailed
from pipeline.experiment import load_experiment
from pipeline.leases import this_process
from pipeline.node_failures import note_failure
from pipeline.nodes import Nodes
from pipeline.session import at_work
from pipeline.storage import open_storage

SHIPPED = Path(__file__).parents[2] / "jobs" / "experiments"
DEMO, ABLATION = SHIPPED / "demo.yaml", SHIPPED / "ablations" / "truncation.yaml"


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


def status(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["status", *map(str, arguments)])


def test_a_person_reads_who_is_at_work_and_what_failed(tmp_path: Path) -> None:
    experiment = load_experiment(DEMO, [f"store={tmp_path}"])
    note_failure(Nodes(experiment).data, NodeFailed("data", "OSError: no room", ""), open_storage(tmp_path))
    told = status(DEMO, "--set", f"store={tmp_path}")
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert lines[0] == f"demo in {tmp_path}: nobody is at work on it"
    assert lines[2].split() == ["data", "failed"]
    assert "data failed: data failed" not in told.stdout
    assert "data failed: OSError: no room" in lines
    assert lines[-1].endswith("; time left: unknown")
    with at_work(experiment, "experiment"):
        assert f"at work: {this_process()} since " in status(DEMO, "--set", f"store={tmp_path}").stdout


def test_a_program_reads_the_same(tmp_path: Path) -> None:
    found = json.loads(status(DEMO, "--set", f"store={tmp_path}", "--json").stdout)["standing"]
    assert (found["store"], found["owner"], found["left_seconds"]) == (str(tmp_path), None, None)
    nodes = {node["node"]: node for node in found["nodes"]}
    assert nodes["train/sr16"] == {"node": "train/sr16", "state": "waiting", "total": nodes["train/sr16"]["total"]}
    found = json.loads(status(ABLATION, "--set", f"store={tmp_path}", "--json").stdout)["standing"]
    assert {row["seed"] for row in found["replicates"]} >= {0, 1}
    table = status(ABLATION, "--set", f"store={tmp_path}").stdout
    assert table.splitlines()[1].split() == ["cell", "seed", "done", "running", "waiting", "failed"]


def test_a_cluster_that_does_not_answer_is_told_and_the_store_all_the_same(tmp_path: Path) -> None:
    answer = status(DEMO, "--set", f"store={tmp_path}", "--address", "http://127.0.0.1:9")
    assert answer.exit_code == 0
    assert "nothing answers at" in answer.stderr
    assert answer.stdout.startswith(f"demo in {tmp_path}: nobody is at work on it")
    nowhere = status(DEMO, "--set", "store=/nowhere/at/all", "--address", "http://127.0.0.1:9")
    assert (nowhere.exit_code, nowhere.stdout) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing.yaml",), "no experiment file"),
        (("demo-run-1",), "there is no file demo-run-1; for a job of that id name its cluster: --address"),
        (("demo-run-1", "--set", "seed=1"), "demo-run-1 is a job, which has its settings"),
        ((DEMO, "--only", "sr64"), "--only sr64: the experiment's stages are base8, sr16, sr32"),
        ((DEMO, "--set", "store=/nowhere/at/all"), "store /nowhere/at/all is not on this machine"),
        ((DEMO, "--set", "store=gs://bucket/x"), "store gs://bucket/x is no place for results"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: tuple[object, ...], told: str) -> None:
    answer = status(*arguments)
    assert (answer.exit_code, answer.stdout) == (2, "")
    assert told in answer.stderr
    assert answer.stderr.count("\n") == 1
