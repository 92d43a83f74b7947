"""Checks are told one by one; what fails, or cannot be made, is told again in the end and is 1."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from stages import check
from stages.check import Check, Finding, checks, look

ROOT = Path(__file__).parents[2]


def broken() -> float:
    raise RuntimeError("called a synchronizing CUDA operation\nand more")


MADE = [Check("fine", 0.5, lambda: 0.5), Check("off", 0.5, lambda: 0.75), Check("none", 0.5, lambda: math.nan)]
MADE.append(Check("raised", 0.5, broken))


def test_what_is_off_is_no_number_or_raises_has_failed() -> None:
    told: list[Finding] = []
    findings = look(MADE, told.append)
    assert told == findings
    assert [one.ok for one in findings] == [True, False, False, False]
    assert findings[3].error == "RuntimeError: called a synchronizing CUDA operation"
    assert findings[3].found is None


def test_the_command_tells_and_keeps_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "checks", lambda device, compiling: MADE[: 2 if compiling else 1])
    out = tmp_path / "found.json"
    assert check.main(["--device", "cpu", "--json", str(out)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("ok   fine: 5.00e-01, at most 0.5 (")
    assert lines[2].startswith("FAIL off: 7.50e-01, at most 0.5 (")
    assert lines[4:] == ["1 of 2 failed", "what     found  at most", "off   7.50e-01      0.5"]
    assert [one["ok"] for one in json.loads(out.read_text())["findings"]] == [True, False]
    assert check.main(["--device", "cpu", "--no-compile"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all 1 as they should be"


def test_a_gpu_that_is_not_there_is_2() -> None:
    command = [sys.executable, "-m", "stages.check", "--device", "cuda"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (found.returncode, found.stderr) == (2, "--device cuda: torch sees no GPU here\n")


def test_a_gpu_is_asked_for_all_that_a_cpu_is_and_more() -> None:
    cpu, gpu = ([one.name for one in checks(device)] for device in ("cpu", "cuda"))
    assert set(cpu) < set(gpu)
    assert len(set(gpu)) == len(gpu)
    beside = [name for name in gpu if "beside a CPU" in name]
    assert len(beside) == 2 + 2 * 4, "draws; trainings and images of three nets and of super-resolution"
    assert sum("as graphs" in name for name in gpu) == 6
    assert {name for name in gpu if name.startswith("waits")} == {
        "waits in a step of f32",
        "waits in a step of bf16",
        "waits in a step of bf16, as graphs",
    }


@pytest.mark.slow
def test_this_machine_is_fine() -> None:
    assert check.main(["--device", "cpu"]) == 0
