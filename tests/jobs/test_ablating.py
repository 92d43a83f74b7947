"""``rayfall ablate`` as a person types it, without a cluster: dry runs, mistakes, and what is read of the figures."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from jobs.ablating import print_ablation
from jobs.cli import app

AUGMENTATION = Path(__file__).parents[2] / "jobs" / "experiments" / "ablations" / "augmentation.yaml"


def ablate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["ablate", *map(str, arguments)])


def test_a_dry_run_says_what_each_replicate_would_compute_and_starts_nothing(tmp_path: Path) -> None:
    common = (AUGMENTATION, "--dry-run", "--set", f"store={tmp_path}", "--set", "ablation.seeds=[0, 1, 2, 5]")
    answer = ablate(*common, "--json")
    assert answer.exit_code == 0, answer.output
    figures = json.loads(answer.stdout)
    assert figures["experiment"]["ablation"]["seeds"] == [0, 1, 2, 5]
    rows = {(row["cell"], row["seed"]): row for row in figures["replicates"]}
    assert len(rows) == 6 * 4
    assert rows["none", 0]["trains"] == ["base8", "sr32"]
    assert rows["blur", 5]["trains"] == ["sr32"], "its base is that of the baseline"
    assert all(0 < row["to_compute"] <= row["nodes"] - row["shared"] for row in rows.values())
    words = " ".join(ablate(*common).stdout.split())
    computed = sum(row["to_compute"] for row in rows.values())
    assert "24 replicates: " in words
    assert f" {computed} results to compute" in words
    assert "Nothing was started" in words
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("ablation.baseline=nothing", "there is no cell 'nothing'; cells are none, noise_small"),
        ("ablation.grid={strength (s): {a: {}, b: {}}}", "ablation.grid.strength (s): "),
        ("ablation=null", "has no ablation section"),
        ("seeed=1", "'seeed'; did you mean 'seed'"),
    ],
)
@pytest.mark.parametrize("manner", [[], ["--dry-run"], ["--json"]])
def test_a_mistake_is_one_sentence_and_exit_code_2(
    setting: str, expected: str, manner: list[str], tmp_path: Path
) -> None:
    answer = ablate(AUGMENTATION, *manner, "--set", f"store={tmp_path}", "--set", setting)
    assert answer.exit_code == 2, answer.output
    assert expected in answer.stderr
    assert answer.stderr.count("\n") == 1, "one sentence on one line"
    assert answer.stdout == ""


def test_a_dry_run_and_a_mistake_load_nothing_heavy(tmp_path: Path) -> None:
    program = """
import sys
from jobs.cli import app
for arguments in (sys.argv[1:], [*sys.argv[1:], "--set", "seeed=1"]):
    try:
        app(["ablate", *arguments], prog_name="rayfall")
    except SystemExit as end:
        heavy = {"torch", "ray", "mlflow", "numpy", "pandas", "matplotlib", "scipy"} & sys.modules.keys()
        print("LOADED", sorted(heavy), "CODE", end.code)
"""
    arguments = [str(AUGMENTATION), "--dry-run", "--set", f"store={tmp_path}"]
    answer = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    told = [line for line in answer.stdout.splitlines() if line.startswith("LOADED")]
    assert told == ["LOADED [] CODE 0", "LOADED [] CODE 2"]


def cell(fid: float, spread: float | None, **differences: Any) -> dict[str, Any]:
    return {
        "n": 3,
        "chained_fid": fid,
        "accuracy": 0.8712,
        "spread": {"chained_fid": spread, "accuracy": 0.0042},
        "differences": differences,
    }


def printed(**changes: Any) -> list[str]:
    near = {"mean": 0.00043, "low": -0.00021, "high": 0.00107, "p": 0.0261}
    far = {"mean": -4.3127, "low": -5.13, "high": -3.49, "p": 0.00004}
    alone = {"mean": 1.0, "low": None, "high": None, "p": None}
    figures = {
        "baseline": "none",
        "cells": {
            "none": cell(0.06213, 0.00312),
            "near": cell(0.06256, 0.00298, chained_fid=near),
            "far": cell(14.4321, 0.1234, chained_fid=far),
            "alone": cell(0.00012345, None, chained_fid=alone),
        },
        "verdict": ["far is better."],
        "equalities": [],
        "why": "It has the lowest mean.",
        "sharing": {
            "trainings_run": 6, "trainings_asked": 15, "spent_seconds": 60.0, "separate_seconds": 150.0,
            "device": "CPU core",
        },
        **changes,
    }  # fmt: skip
    stream = io.StringIO()
    print_ablation(Console(file=stream, width=140), figures)
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_figures_keep_the_digits_that_their_spread_leaves_them() -> None:
    lines = printed()
    assert lines[:5] == [
        "cell seeds chained FID accuracy chained FID - baseline p",
        "none (baseline) 3 0.0621 ± 0.0031 0.8712 ± 0.0042 – –",
        "near 3 0.0626 ± 0.0030 0.8712 ± 0.0042 +0.00043 [-0.0002, 0.0011] 0.026",
        "far 3 14.43 ± 0.12 0.8712 ± 0.0042 -4.31 [-5.1, -3.5] < 0.001",
        "alone 3 0.0001234 0.8712 ± 0.0042 – –",
    ]
    assert "far is better." in lines
    told = "computing took 1 min 00 s of CPU core time, separate experiments would have taken 2 min 30 s"
    assert f"6 trainings served 15; {told}" in lines


def test_what_failed_is_told_with_its_reason() -> None:
    assert "far, seed 1 failed: train/sr32: [odd]" in printed(failed={"far, seed 1": "train/sr32: [odd]"})
