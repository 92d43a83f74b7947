"""The command line: exit codes, sentences, JSON, and what is imported on the way to a mistake."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline import workflow
from pipeline.errors import UserError

SHIPPED = Path(__file__).parents[2] / "jobs" / "experiments"
DEMO, ABLATION = SHIPPED / "demo.yaml", SHIPPED / "ablations" / "truncation.yaml"
RAYFALL = [sys.executable, "-c", "from jobs.cli import main; main()"]


def rayfall(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The sentence with which a user's mistake is answered."""
    answer = rayfall(*arguments)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1, "one sentence on one line"
    return answer.stderr


def png(size: int = 12) -> bytes:
    file = BytesIO()
    Image.new("RGB", (size, size), (200, 30, 60)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes of ten images."""
    for name in ("cat", "dog"):
        folder = tmp_path / "tree" / name
        folder.mkdir(parents=True)
        for number in range(10):
            (folder / f"{number}.png").write_bytes(png())
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("stages.sr16.trainning.steps=3", "'trainning'; did you mean 'training'"),
        ("stages.sr16.low_res_size=4", "low_res_size is 4, but the stage below, base8, makes 8 px"),
        ("stages.base8.training.steps=many", "stages.base8.training.steps: "),
        ("seed", "give it as path=value"),
        ("stages.sr16.loss={kind: hybrid}", "needs a schedule of T steps"),
        ("stages.sr16.sampling={sampler: ddim, variance: learned}", "learned"),
        ("stages.sr16.sampling.level=0.9", "outside the trained augmentation levels"),
        ("stages.base8.net.attention=[5]", "attention at [5] px, but the feature maps are [8, 4] px"),
        ("stages.base8.net.kind=vit", "there is no kind 'vit'; did you mean 'uvit'?"),
        ("stages.base8.schedule={kind: linear_beta, steps: 100}", "raise beta_end"),
        ("stages.base8.sampling.ema_length=0.1", "give training.averages"),
        ("cascades={one: [base8, sr32]}", "stages.sr16 is in no cascade"),
    ],
)
def test_a_mistake_in_an_experiment_is_one_sentence(setting: str, expected: str) -> None:
    assert expected in refused("run", DEMO, "--set", setting)


def test_a_file_that_is_not_there_or_no_yaml_is_named(tmp_path: Path) -> None:
    assert "no experiment file" in refused("run", tmp_path / "nothing.yaml")
    (tmp_path / "bad.yaml").write_text("name: demo\nstages: {a: [\n")
    assert "bad.yaml:3: not valid YAML" in refused("train", tmp_path / "bad.yaml")


def test_a_stage_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    store = ("--set", f"store={tmp_path}")
    for arguments in (("train", DEMO, "--only", "sr64"), ("sample", DEMO, "--stage", "sr64")):
        assert "sr64: the experiment's stages are base8, sr16, sr32" in refused(*arguments, *store)


def test_a_data_set_that_is_not_there_is_named(tree: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert rayfall("ingest", tree, data, "--size", 32, "--val-fraction", 0.2, "--in-process").exit_code == 0
    settings = ("--set", f"data={{kind: shards, path: {data}}}", "--set", f"store={tmp_path / 'store'}")
    few = ("--set", "evaluation.held_out=4", "--set", "search=null")
    assert rayfall("run", DEMO, "--dry-run", *settings, *few).exit_code == 0
    assert f"and {data} has 4; set evaluation.held_out to" in refused("run", DEMO, "--dry-run", *settings)
    (data / "manifest.json").unlink()
    assert f"there is no data set in {data}" in refused("run", DEMO, "--dry-run", *settings)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_looked_for(tmp_path: Path) -> None:
    store, file = ("--set", f"store={tmp_path / 'store'}"), tmp_path / "file"
    file.touch()
    for experiment in (DEMO, ABLATION):
        assert f"{tmp_path} is a folder; name a file" in refused("report", experiment, "--out", tmp_path, *store)
        assert f"{file} is a file; name another" in refused("report", experiment, "--out", file / "x.html", *store)
    assert f"{file} is a file; name a folder" in refused("sample", DEMO, "--out", file, *store)


def test_usage_errors_leave_with_2() -> None:
    assert rayfall("run").exit_code == 2
    assert rayfall("fly").exit_code == 2
    assert rayfall("sample", DEMO, "--count", 0).exit_code == 2


def test_help_names_every_command_and_an_example() -> None:
    commands = (
        *("ingest", "doctor", "run", "plan", "train", "search"),
        *("ablate", "evaluate", "sample", "report", "ui", "schema"),
        *("submit", "jobs", "logs", "stop", "status"),
    )
    assert {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands} == {
        *commands
    }
    listing = rayfall("--help").stdout
    for name in commands:
        assert f" {name} " in listing
        assert name == "schema" or "Example:" in rayfall(name, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", str(DEMO), "--set", "seeed=1"], 2),
        (["run", str(DEMO), "--dry-run", "--set", "store={store}"], 0),
        (["status", str(DEMO), "--set", "store={store}"], 0),
        (["status", str(ABLATION), "--set", "store={store}"], 0),
        (["train", "--help"], 0),
        (["plan", "--help"], 0),
        (["plan", str(DEMO), "--gpus", "many"], 2),
        (["schema"], 0),
        (["submit", str(DEMO), "--address", "http://127.0.0.1:8265"], 2),  # its store is a relative path
    ],
)
def test_answers_that_need_no_torch_load_none(arguments: list[str], code: int, tmp_path: Path) -> None:
    """What makes a mistake be answered within two seconds; 0.9 s here, 0.3 s of it Python itself."""
    arguments = [argument.format(store=tmp_path) for argument in arguments]
    program = f"""
import sys
from jobs.cli import app
try:
    app({arguments!r}, prog_name="rayfall")
except SystemExit as end:
    heavy = {{"torch", "ray", "mlflow", "numpy", "pandas", "matplotlib"}} & sys.modules.keys()
    print("LOADED", sorted(heavy), "CODE", end.code)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == f"LOADED [] CODE {code}"


def test_a_dry_run_prints_experiment_and_graph_and_starts_nothing(tmp_path: Path) -> None:
    common = ("run", DEMO, "--dry-run", "--set", f"store={tmp_path}", "--set", "seed=7")
    figures = json.loads(rayfall(*common, "--json").stdout)
    assert figures["experiment"]["seed"] == 7
    nodes = {node["name"]: node for node in figures["nodes"]}
    assert nodes["chained/sr16"]["inputs"] == ["chained/base8", "classifier/features", "classifier/judge", "train/sr16"]
    assert not any(node["reused"] for node in figures["nodes"])
    words = rayfall(*common).stdout
    assert '"seed": 7' in words
    assert f"{len(figures['nodes'])} nodes: 0 reused, {len(figures['nodes'])} to compute" in words
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def ended_by(monkeypatch: pytest.MonkeyPatch, body: Callable[[], dict[str, Any]]) -> None:
    """Let a run end as ``body`` does."""
    monkeypatch.setattr(workflow, "run", lambda experiment, goal, *, events, only=(), command=None: body())


def test_a_failure_is_one_sentence_and_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("the disk is on fire\nand more")

    ended_by(monkeypatch, fail)
    answer = rayfall("run", DEMO, "--set", f"store={tmp_path}")
    assert answer.exit_code == 1
    (log,) = (tmp_path / "failures").iterdir()
    assert answer.stderr == f"RuntimeError: the disk is on fire; the traceback is in {log}\n"
    assert 'raise RuntimeError("the disk is on fire' in log.read_text()
    shown = rayfall("run", DEMO, "--set", f"store={tmp_path}", "--debug", "--json")
    assert "Traceback" in shown.stderr
    assert shown.stdout == ""


def test_a_failed_node_keeps_the_traceback_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.dag import NodeFailed

    def fail() -> dict[str, Any]:
        raise NodeFailed("train/sr16", "ValueError: odd", "remote frames")

    ended_by(monkeypatch, fail)
    assert "train/sr16 failed: ValueError: odd; the" in rayfall("train", DEMO, "--set", f"store={tmp_path}").stderr
    (log,) = (tmp_path / "failures").iterdir()
    assert "remote frames" in log.read_text()


def test_no_password_of_an_address_is_printed_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("http://me:secret@host/api?token=secret does not answer")

    ended_by(monkeypatch, fail)
    given = ("--set", f"store={tmp_path}", "--set", "tracking.uri=http://me:secret@host")
    assert "http://host/api does not answer; the" in rayfall("train", DEMO, *given).stderr
    (log,) = (tmp_path / "failures").iterdir()
    assert "secret" not in log.read_text()
    for manner in ((), ("--json",)):
        planned = rayfall("run", DEMO, "--dry-run", *manner, *given).stdout
        assert "http://host" in planned
        assert "secret" not in planned


def test_a_users_mistake_found_late_is_still_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, Any]:
        raise UserError("the weights are not there")

    ended_by(monkeypatch, refuse)
    assert refused("evaluate", DEMO, "--set", f"store={tmp_path}") == "the weights are not there\n"


def test_json_is_strict_and_alone_on_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def talk() -> dict[str, Any]:
        print("a library that talks")
        return {"fid": math.nan, "best": {"at": math.inf, "path": Path("x")}, "images": (1, 2)}

    ended_by(monkeypatch, talk)
    answer = rayfall("search", DEMO, "--json", "--set", f"store={tmp_path}")
    assert json.loads(answer.stdout) == {"fid": None, "best": {"at": None, "path": "x"}, "images": [1, 2]}
    assert "a library that talks" in answer.stderr


def test_a_plan_is_a_table_or_json_and_starts_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    answer = rayfall("plan", DEMO, "--set", f"store={store}", "--json")
    assert answer.exit_code == 0, answer.output
    figures = json.loads(answer.stdout)
    assert list(figures["plan"]) == ["base8", "sr16", "sr32"]
    assert all(stage["parameters"] > 0 for stage in figures["plan"].values())
    told = rayfall("plan", DEMO, "--set", f"store={store}").stdout
    assert f"{figures['plan']['sr32']['parameters']:,}" in told
    assert "Nothing was started" in told
    assert not list(store.rglob("*.json")), "planning leaves nothing behind"


def test_a_plan_forecasts_steps_on_many_gpus(tmp_path: Path) -> None:
    asked = ("plan", DEMO, "--set", f"store={tmp_path}", "--gpus", "8,64,512", "--network-gbit", "400")
    told = rayfall(*asked).stdout
    assert "Forecast of sr16" in told
    assert "nothing was measured" in told
    assert "A forecast, not a measurement" in told
    figures = json.loads(rayfall(*asked, "--json").stdout)["forecast"]
    assert figures["network_gbit"] == 400
    rows = figures["stages"]["sr32"]["rows"]
    assert [row["gpus"] for row in rows] == [8, 64, 512]
    batch = figures["stages"]["sr32"]["batch"]
    assert ["impossible" in row for row in rows] == [gpus > batch for gpus in (8, 64, 512)]
    assert f"512 GPUs: {rows[-1]['impossible']}" in told


def test_a_forecast_that_cannot_be_is_refused(tmp_path: Path) -> None:
    assert "such as 8,64,512" in refused("plan", DEMO, "--gpus", "8,many")
    assert "say for how many GPUs" in refused("plan", DEMO, "--network-gbit", "400")
    assert "cannot be read" in refused("plan", DEMO, "--gpus", "8", "--measured", tmp_path / "absent.json")


def test_a_plan_for_a_machine_that_cannot_be_is_refused() -> None:
    assert "known are a100" in refused("plan", DEMO, "--gpu", "h300")
    assert "above 0 and at most 1" in refused("plan", DEMO, "--utilisation", "40")
