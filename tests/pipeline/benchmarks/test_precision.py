"""The benchmark of precisions: curves of the same trainings, and what stands between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import benchmark


def test_the_command_prints_its_table_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    asked = ["--steps", "4", "--every", "2", "--batch", "4", "--seeds", "2", "--json", str(out)]
    assert benchmark.main(["precision", *asked]) == 0
    assert "bf16 − f32, same seed" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert [row["steps"] for row in figures["rows"]] == ["1 to 2", "3 to 4", "held out, averaged weights"]
    exact, rounded = (figures["curves"][name] for name in ("f32", "bf16"))
    for number, row in enumerate(figures["rows"][:2]):
        apart = [
            ours["windows"][number] - theirs["windows"][number] for ours, theirs in zip(rounded, exact, strict=True)
        ]
        assert (row["least"], row["most"]) == (min(apart), max(apart))
        assert 0 < max(map(abs, apart)) < 0.02 * row["f32"], "the same training but for rounding"
    assert exact[0]["windows"] != exact[1]["windows"]
