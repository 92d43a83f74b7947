"""The benchmark runs from end to end on a few small images; how fast is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import benchmark
from pipeline.data import bench_inputs
from pipeline.data.bench_inputs import bench_of, first_batches, measure_start
from pipeline.data.measuring import BATCH, variants_of


def test_every_way_through_the_shards_gives_the_images_once() -> None:
    with bench_of(None, images=130, large=32, small=16) as bench:
        found = {variant.name: variant.run() for variant in variants_of(bench)}
    assert {found[name] for name in ("stock jpeg", "stock jpeg, box", "stock raw")} == {130}
    # Ours give whole batches of one global size, so the rest of the epoch belongs to the next one.
    assert {count for name, count in found.items() if name.split(",")[0] in ("jpeg dct", "jpeg box", "raw")} == {
        130 // BATCH * BATCH
    }


def test_the_first_batch_can_be_timed_at_any_step() -> None:
    firsts = first_batches(1, shards=40, per_shard=32)
    assert [first.step for first in firsts] == [0, 5, 10, 19, 107]
    assert all(first.seconds > 0 for first in firsts)


def test_the_command_prints_its_tables_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "measure_start", lambda: measure_start(1000))
    monkeypatch.setattr(benchmark, "first_batches", lambda repeats: first_batches(repeats, shards=40))
    monkeypatch.setattr(bench_inputs, "SHARD", 50)
    out = tmp_path / "figures.json"
    benchmark.main(["data", "--images", "130", "--size", "32", "--small", "16", "--repeats", "1", "--json", str(out)])
    printed = capsys.readouterr().out
    for title in ("Reading", "Ratios", "Against Pillow's bicubic", "Shuffle of 256 shards", "Reckoned, not run"):
        assert title in printed
    figures = json.loads(out.read_text())
    assert figures["ratios"]["raw / stock raw"][0] > 0
    assert figures["differences"]["jpeg box"]["mean"] < 8, "another filter of the same image, not another image"
    assert len(figures["needs"]) == 12


def test_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["nets"])
