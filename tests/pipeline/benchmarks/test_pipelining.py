"""The benchmark of pipelined sampling runs from end to end; how fast is not asserted, only what is equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import benchmark


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_prints_its_tables_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_cluster: None
) -> None:
    out = tmp_path / "figures.json"
    small = ["--samples", "48", "--block", "8", "--base-steps", "4", "--channels", "8", "--repeats", "1"]
    assert benchmark.main(["pipelining", *small, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "One set of samples of a cascade of two stages" in printed
    assert "all sets are the same, byte for byte" in printed
    figures = json.loads(out.read_text())
    assert figures["same"]
    assert set(figures["ratios"]) == {
        "two workers / one worker",
        "a line of two actors / one worker",
        "a line of two actors / two workers",
    }
    assert figures["largest_share"] == pytest.approx(max(figures["flops"]) / sum(figures["flops"]))
    assert 0.5 <= figures["largest_share"] < 1
    assert all(0 < share < 1 for share in figures["busy"])
