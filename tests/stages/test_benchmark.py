"""The benchmark runs from end to end on a tiny net; how fast is not asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages import benchmark

ROOT = Path(__file__).parents[2]


def test_the_command_prints_its_tables_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    out = tmp_path / "figures.json"
    asked = ["--net", "demo", "--batch", "2", "--repeats", "1", "--against", "diffusers", "--json", str(out)]
    assert benchmark.main([*asked, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    for part in ("net demo", "matrix bf16", "rayfall f32", "rayfall bf16", "diffusers f32", "train per FLOP"):
        assert part in printed
    figures = json.loads(out.read_text())
    ratios = figures["ratios"]["rayfall bf16 / diffusers f32"]
    flops = [figures["flops"][name]["training"] for name in ("rayfall bf16", "diffusers f32")]
    assert ratios["train per FLOP"][0] == pytest.approx(ratios["train"][0] * flops[1] / flops[0])
    assert figures["rates"]["matrix f32"] > 1e9


def test_a_wish_that_cannot_be_met_is_one_sentence_and_2() -> None:
    command = [sys.executable, "-m", "stages.benchmark", "--net", "uvit", "--against", "diffusers", "--device", "cpu"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 2
    assert found.stderr.strip() == "--against diffusers: it has no net like a uvit with a patch of 1"


def test_graphs_are_refused_where_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--net", "demo", "--device", "cpu", "--compile", "graphs"]) == 2
    assert capsys.readouterr().err.startswith("CUDA graphs are launched on a GPU")


def test_the_figures_say_what_a_forecast_is_calibrated_with(tmp_path: Path) -> None:
    """The device, the kind of net, precisions, peaks and the rate of memory: all that a share of a peak is made of."""
    out = tmp_path / "figures.json"
    asked = ["--net", "demo", "--batch", "2", "--repeats", "1", "--precision", "bf16", "--json", str(out)]
    assert benchmark.main([*asked, "--device", "cpu"]) == 0
    figures = json.loads(out.read_text())
    assert figures["device"]["type"] == "cpu"
    assert figures["device"]["name"].endswith("CPU")
    assert figures["kind"] == "unet"
    assert figures["own"] == {"rayfall bf16": {"precision": "bf16", "compiled": False}}
    rates = figures["rates"]
    assert figures["peaks"] == {"bf16": max(rates["matrix bf16"], rates["convolution bf16"])}
    assert 1e8 < rates["memory"] < 1e13, "bytes per second"
