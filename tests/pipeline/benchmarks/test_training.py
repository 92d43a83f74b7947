"""The benchmark of the loop around a step runs from end to end on a tiny net; how fast is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import benchmark
from pipeline.benchmarks.bare_loops import ALONE, IN_STEP, SHARING, SIDE_BY_SIDE
from pipeline.calibration import BARE, BOTH, ONE, TWO, read_measured


@pytest.mark.slow
@pytest.mark.ray
def test_the_command_prints_its_tables_and_writes_its_figures(
    tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    asked = ["--net", "tiny", "--steps", "6", "--every", "2", "--repeats", "1", "--json", str(out)]
    assert benchmark.main(["training", *asked]) == 0
    assert "time per image of" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert set(figures["rates"]) == {ONE, BARE, TWO, BOTH, SIDE_BY_SIDE, IN_STEP, SHARING}
    assert BARE == ALONE
    share = figures["ratios"][f"{ONE} / {BARE}"][0]
    assert share == pytest.approx(figures["rates"][BARE] / figures["rates"][ONE])
    assert len(figures["all_reduce_seconds"]) == 1
    assert 0 < figures["all_reduce_seconds"][0] < 10
    loop = read_measured([out]).loop  # what is written is what a forecast reads
    assert loop is not None
    assert loop.loop == max(1.0, share)
    assert loop.hidden is None, "the tiny net's gradients are one bucket"
