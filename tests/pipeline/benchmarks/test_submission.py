"""The benchmark of submission runs from end to end on a head of its own; how fast is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import benchmark
from pipeline.benchmarks.submission import PHASES, TOTAL, medians


def test_the_middle_of_every_phase_is_told() -> None:
    assert medians([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 4.0}, {"a": 2.0, "b": 9.0}]) == {"a": 2.0, "b": 5.0}


@pytest.mark.slow
@pytest.mark.ray
def test_the_phases_add_up_to_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    benchmark.main(["submission", "--repeats", "1", "--json", str(out)])
    assert TOTAL in capsys.readouterr().out
    (found,) = json.loads(out.read_text())["seconds"]
    whole = found.pop(TOTAL)
    assert {name for name, _ in PHASES} < found.keys()
    assert sum(found.values()) == pytest.approx(whole, abs=0.01)
    assert min(found.values()) >= 0
