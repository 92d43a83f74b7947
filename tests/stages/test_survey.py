"""A survey does its parts one after the other, keeps what it has, and tells of all in one table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import survey
from stages.survey import PARTS, Part

# In the place of a benchmark on a GPU that holds 32 images.
SMALL_CARD = """
import json, pathlib, sys
told = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if int(told["--batch"]) > 32:
    sys.exit("torch.OutOfMemoryError: CUDA out of memory")
figures = {"own": {"rayfall bf16": {"precision": "bf16"}}, "batch": int(told["--batch"]), "peaks": {"bf16": 1e12}}
figures["rates"] = {"rayfall bf16 train": 25.0, "rayfall bf16 sample": 100.0}
figures["flops"] = {"rayfall bf16": {"training": 2e10, "forward": 6e9}}
figures["ratios"] = {"rayfall bf16 / diffusers bf16": {"train": [0.5, 0.4, 0.6], "sample": [0.25, 0.2, 0.3]}}
figures["peak_bytes"] = {"rayfall bf16": 3_000_000_000}
pathlib.Path(told["--json"]).write_text(json.dumps(figures))
"""
# One that finds one thing more every time.
COUNTS = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--json") + 1])
count = out.with_name("count")
findings = [{"ok": True}, *(json.loads(count.read_text()) if count.exists() else [])]
count.write_text(json.dumps(findings))
out.write_text(json.dumps({"findings": findings}))
"""
# One that never ends, with a helper, as torch's compiler has.
ENDLESS = """
import pathlib, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(helper.pid, flush=True)
time.sleep(600)
"""

SURVEYS = """
import sys
from stages import survey
survey.PARTS["cpu"] = (survey.Part("endless", "endless"),)
sys.exit(survey.command())
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_card.py").write_text(SMALL_CARD)
    (tmp_path / "endless.py").write_text(ENDLESS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_a_survey_measures_keeps_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = Part("demo", "stages.benchmark", ("--net", "demo", "--batch", "2", "--precision", "f32"))
    wrong = Part("wrong", "stages.benchmark", ("--net", "uvit", "--against", "diffusers"))
    monkeypatch.setitem(PARTS, "cpu", (demo, wrong))
    asked = [str(tmp_path / "out"), "--device", "cpu", "--repeats", "1"]
    assert survey.main(asked) == 1
    first = capsys.readouterr().out
    log = tmp_path / "out" / "wrong.log"
    assert f"wrong: failed, see {log}" in first
    assert log.read_text().splitlines()[-1] == "--against diffusers: it has no net like a uvit with a patch of 1"
    figures = json.loads((tmp_path / "out" / "demo.json").read_text())
    row = next(line for line in first.splitlines() if line.startswith("demo f32")).split()
    assert row[2:4] == ["2", f"{figures['rates']['rayfall f32 train']:.1f}"]
    assert survey.main([*asked, "--only", "demo"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "demo: was done before"
    assert json.loads((tmp_path / "out" / "demo.json").read_text()) == figures
    assert survey.main([*asked, "--only", "wrong", "--alone", "--minutes", "0.01"]) == 1, "too short for it"
    assert log.read_text().startswith("$ ")
    assert "diffusers" not in log.read_text()


def test_a_batch_that_does_not_fit_is_halved(
    stand_ins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PARTS, "cuda", (Part("adm64", "small_card", ("--net", "adm64")),))
    assert survey.main([str(tmp_path / "out"), "--device", "cuda"]) == 0
    told = capsys.readouterr().out.splitlines()[-1].split()
    assert told == ["adm64", "bf16", "32", "25.0", "50%", "100.0", "60%", "0.500", "0.250", "3,000"]


def test_what_has_no_time_left_is_ended_with_all_it_started(
    stand_ins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = (Part("endless", "endless"), Part("after", "endless"))
    monkeypatch.setitem(PARTS, "cpu", parts)
    assert survey.main([str(tmp_path / "out"), "--device", "cpu", "--minutes", "0.05"]) == 1
    assert capsys.readouterr().out.count("no time was left for it") == 4, "as it came, and in the table"
    helper = int((tmp_path / "out" / "endless.log").read_text().splitlines()[-1])
    assert _ended(helper)
    assert not (tmp_path / "out" / "after.log").exists()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_survey_that_is_told_to_end_ends_what_it_started(
    sent: signal.Signals, stand_ins: None, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SURVEYS, str(tmp_path / "out"), "--device", "cpu"]
    process, log = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL), tmp_path / "out" / "endless.log"
    for _ in range(600):
        if log.exists() and log.read_text().count("\n") == 2:
            break
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(sent)
    process.wait(10)
    assert _ended(int(log.read_text().splitlines()[-1]))


def _ended(process: int) -> bool:
    """Whether it has, or does within five seconds."""
    return any(not _lives(process) or time.sleep(0.05) for _ in range(100))


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_checks_that_failed_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = '{"findings": [{"ok": true}, {"ok": false}]}'
    written = "import sys, pathlib; pathlib.Path(sys.argv[sys.argv.index('--json') + 1]).write_text(OUT); sys.exit(1)"
    (tmp_path / "wrong.py").write_text(written.replace("OUT", repr(found)))
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    monkeypatch.setitem(PARTS, "cpu", (Part("checks", "wrong"),))
    for _ in range(2):
        assert survey.main([str(tmp_path), "--device", "cpu"]) == 1
        told = capsys.readouterr().out
        assert f"checks: failed, see {tmp_path / 'checks.log'}" in told
        assert "1 of 2 fine" in told
    figures = tmp_path / "checks.json"
    figures.write_text(figures.read_text().replace("false", "true"))
    assert survey.main([str(tmp_path), "--device", "cpu"]) == 0


def test_what_was_asked_in_another_way_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "counts.py").write_text(COUNTS)
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(PARTS, device, (Part("checks", "counts", ("--against", "diffusers")),))
    asked = [str(tmp_path), "--device", "cpu"]
    for others, count in ([], 1), ([], 1), (["--device", "cuda"], 2), (["--device", "cuda", "--alone"], 3):
        assert survey.main([*asked, *others]) == 0
        assert f"{count} of {count} fine" in capsys.readouterr().out
    assert survey.main([*asked, "--minutes", "0"]) == 1
    assert "fine" not in capsys.readouterr().out, "what there is was asked in another way"


def test_parts_that_are_not_known_are_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert survey.main([str(tmp_path / "out"), "--device", "cpu", "--only", "demo", "fast", "slow"]) == 2
    assert capsys.readouterr().err == "--only fast slow: there are checks, small, demo, adm64 on cpu\n"
    assert not (tmp_path / "out").exists()
