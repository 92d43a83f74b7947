"""What a score owes to the resize filter: the filters are what they are called, and the table has a row of each."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from pipeline.benchmarks.resizing import add_resize_options, filters, measure_resizing, recoded
from pipeline.data.ingest import ingest_drawn, make_forms


def test_filters_agree_on_what_has_no_detail_and_differ_on_what_has() -> None:
    flat = np.full((2, 16, 16, 3), 77, dtype=np.uint8)
    detail = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    seen = {}
    for name, change in filters(8).items():
        assert np.array_equal(change(flat), np.full((2, 8, 8, 3), 77)), name
        seen[name] = change(detail)
    means = detail.reshape(2, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    assert np.abs(seen["box means (as the reference)"] - means).max() <= 0.5
    assert len({small.tobytes() for small in seen.values()}) == len(seen)


def test_a_filter_without_antialias_looks_past_what_it_skips() -> None:
    """Stripes finer than the small image can show: a widened filter gives their mean, the other what it lands on."""
    stripes = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    stripes[:, :, ::4] = 240
    found = {name: change(stripes).astype(float) for name, change in filters(8).items()}
    assert abs(found["bilinear (Pillow)"] - 60).max() < 25
    assert abs(found["bicubic without antialias (torch)"] - 60).max() > 50


def test_coding_again_loses_more_at_lower_quality() -> None:
    detail = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    losses = [np.abs(change(detail).astype(int) - detail).mean() for change in recoded().values()]
    assert 0 < losses[0] < losses[1]


@pytest.mark.slow
def test_the_table_has_a_row_for_every_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest_drawn(tmp_path / "data", seed=0, forms=make_forms([(16, "png")]), train=400, val=340, shard_size=400)
    parser = argparse.ArgumentParser()
    add_resize_options(parser)
    chosen = parser.parse_args(["--data", str(tmp_path / "data"), "--steps", "2"])
    found = measure_resizing(chosen)
    assert set(found["rows"]) == {"16", "8"}
    assert set(found["rows"]["8"]) == set(filters(8))
    assert all(scores["samples"] == 340 for scores in found["rows"]["8"].values())
    assert "nearest (Pillow)" in capsys.readouterr().out
