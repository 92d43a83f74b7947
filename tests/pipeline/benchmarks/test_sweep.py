"""The sweep benchmark runs from end to end on the least there can be; how fast is not asserted, only what is equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import benchmark
from pipeline.benchmarks.sweep import same_images
from pipeline.benchmarks.sweep_inputs import fresh_store, one_level, prepare, swept_experiment
from pipeline.dag import missing
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import with_settings
from pipeline.nodes import Nodes
from pipeline.search.proposals import with_drawn_lists
from pipeline.storage import open_storage

LEVEL = "stages.sr16.sampling.level"


def test_stores_made_for_it_share_what_is_not_measured_and_images_are_compared_by_byte(tmp_path: Path) -> None:
    experiment = swept_experiment(tmp_path / "a", 2, levels=2, samples=24, base_steps=2, channels=8, block=16)
    prepare(experiment)
    fresh = fresh_store(experiment, tmp_path / "b")
    todo = missing(Nodes(fresh, trial=True).trial_targets("sr16"), open_storage(fresh.store))
    assert {node.name.split("/")[0] for node in todo} == {"chained", "oracle", "scores"}
    alone = one_level(fresh, LEVEL, 0.2)
    assert alone.kept_levels("base", searched=True) == (0.2,)
    assert experiment.kept_levels("base", searched=True) == (0.2, 0.3, 0.4)
    other = with_settings(alone, {"search.seed": 7})
    for one in (experiment, alone, other):
        changed = with_settings(with_drawn_lists(one), {LEVEL: 0.2})
        execute([Nodes(changed, trial=True).chained("sr16")], open_storage(one.store), Silence(), use_ray=False)
    assert same_images(experiment, alone, {LEVEL: 0.2})
    assert not same_images(experiment, other, {LEVEL: 0.2})


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_prints_its_tables_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_cluster: None
) -> None:
    out = tmp_path / "figures.json"
    small = ["--levels", "2", "--samples", "40", "--base-steps", "2", "--channels", "8", "--repeats", "1"]
    benchmark.main(["sweep", *small, "--json", str(out)])
    printed = capsys.readouterr().out
    assert "one sweep, and as many evaluations alone" in printed
    assert "A stagewise sweep of three stages" in printed
    figures = json.loads(out.read_text())
    assert figures["same"]
    assert figures["levels"] == 2
    (row,) = figures["rows"]
    below, rest = row["P"], row["R"]
    assert row["reckoned"] == pytest.approx((below + 2 * rest) / (2 * (below + rest)))
    assert [found["stage"] for found in figures["rounds"]] == ["sr16", "sr32"]
    assert all(found["saved_seconds"] > 0 for found in figures["rounds"])
