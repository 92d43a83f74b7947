"""The benchmark of features runs from end to end on two small images; how fast is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import benchmark
from pipeline.benchmarks.features import Seconds, Workers
from stages.benchmarks.timing import Timing


def test_shares_are_taken_repetition_by_repetition() -> None:
    assert Timing((1.0, 3.0, 2.0)).share_of(Timing((2.0, 4.0, 10.0))) == (0.5, 0.2, 0.75)
    workers = Workers((Seconds(4.0, 4.0), Seconds(8.0, 4.0)), (Seconds(2.0, 1.0), Seconds(8.0, 3.0)))
    assert workers.share("wall") == (0.75, 0.5, 1.0)
    assert workers.share("cpu") == (0.5, 0.25, 0.75)


@pytest.mark.slow
def test_the_command_prints_its_tables_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    benchmark.main(["features", "--images", "2", "--size", "16", "--repeats", "1", "--json", str(out)])
    printed = capsys.readouterr().out
    for part in ("Against torch-fidelity", "Workers", "load before"):
        assert part in printed
    figures = json.loads(out.read_text())
    assert figures["errors"]["ours"]["features"] < 1e-5
    assert figures["errors"]["ours, bf16"]["features"] > 1e-4
    assert figures["ratios"]["ours"][1] > 0
    assert figures["workers"]["cpu"][0] > 0
