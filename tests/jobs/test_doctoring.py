"""The doctor as a person calls it: a line each, exit codes, JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app

DEMO = Path(__file__).parents[2] / "jobs" / "experiments" / "demo.yaml"


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_all_is_well_on_this_machine(tmp_path: Path) -> None:
    answer = doctor(DEMO, "--set", f"store={tmp_path}", "--set", f"resources.cache={tmp_path}", "--json")
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.stdout)
    assert told["ok"]
    assert {"versions", "store verbs", "tracking", "data", "this machine"} <= {one["name"] for one in told["checks"]}
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_has_its_line_and_the_exit_code_is_1(tmp_path: Path) -> None:
    source = tmp_path / "absent.tar"
    answer = doctor(DEMO, "--set", f"store={tmp_path}", "--set", f"data={{kind: images, source: {source}, size: 32}}")
    assert answer.exit_code == 1
    assert "failed data: " in answer.stdout
    assert str(source) in answer.stdout
    assert "ok     versions: " in answer.stdout


def test_a_cluster_that_is_not_there_is_told_within_seconds() -> None:
    started = time.monotonic()
    answer = doctor("--address", "127.0.0.1:9")
    assert time.monotonic() - started < 30
    assert answer.exit_code == 1
    assert "failed ray: nothing answers at 127.0.0.1:9" in answer.stdout


def test_a_mistake_in_the_experiment_is_a_mistake() -> None:
    assert doctor(DEMO, "--set", "seed=x").exit_code == 2


@pytest.mark.ray
def test_a_machine_without_gpus_fails_the_gpu_check(ray_cluster: None) -> None:
    answer = doctor("--gpu", "--json")
    assert answer.exit_code == 1
    last = json.loads(answer.stdout)["checks"][-1]
    assert (last["name"], last["ok"]) == ("gpu", False)
    assert last["told"].startswith("there is no GPU in this cluster")
