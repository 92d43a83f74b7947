"""From the summary of a search to its sections: what differs, differences with paired errors, older summaries."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pipeline.collecting.searches import sections_of
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.report.search_parts import SearchSection

LEVEL, KIND, STEPS = (f"stages.sr.sampling.{name}" for name in ("level", "augmentation", "steps"))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    file = tmp_path_factory.mktemp("searched") / "x.yaml"
    stage = "net: {kind: unet, channels: 8}, training: {steps: 1, batch_size: 8}"
    file.write_text(
        "name: x\ndata: {kind: drawn, size: 16}\nstages:\n"
        f"  base: {{size: 8, schedule: {{kind: cosine_beta, steps: 4001}}, {stage}}}\n"
        f"  sr: {{size: 16, low_res_size: 8, augmentation: {{noise: {{levels: [0, 1]}}}}, {stage}}}\n"
    )
    return load_experiment(file)


def scores(fid: float, samples: int = 20) -> dict[str, Any]:
    without = [fid + (0.1 if block % 2 else -0.1) for block in range(20)]
    return {"fid": fid, "fid_error": 0.5, "fid_without": without, "samples": samples, "accuracy": 0.9, "recall": 0.5}


def point(settings: dict[str, Any], fid: float, **more: Any) -> dict[str, Any]:
    """As a search of an older release left it."""
    found = {"settings": settings, "error": None, "objective": fid, "seconds": 2.0, "oracle": None}
    return {**found, "chained": scores(fid), **more}


def section(experiment: Experiment, points: list[dict[str, Any]], chosen: dict[str, Any], **more: Any) -> SearchSection:
    found = {"stage": "sr", "metric": "chained_fid", "points": points, "chosen": chosen, **more}
    (only,) = sections_of(experiment, {"rounds": [found]})
    return only


def test_a_round_of_levels_has_the_place_of_each_in_the_schedule_below(experiment: Experiment) -> None:
    settings = [{LEVEL: 0.25, KIND: kind, STEPS: 8} for kind in ("truncated", "non_truncated")]
    settings += [{LEVEL: 0.0, KIND: "truncated", STEPS: 8}]
    found = section(experiment, [point(one, 5.0 + n) for n, one in enumerate(settings)], settings[1])
    assert found.of_levels
    assert found.varied == [LEVEL, KIND]
    assert found.chosen == 1
    assert (found.place(0).ddpm_step, found.place(0).of_steps) == (1001.0, 4001)
    assert found.place(0).logsnr == pytest.approx(1.71, abs=0.01)
    assert found.by_level == [2, 1, 0]


def test_a_round_of_anything_else_keeps_what_differs(experiment: Experiment) -> None:
    settings = [{LEVEL: 0.1, STEPS: steps} for steps in (8, 16)]
    found = section(experiment, [point(one, 5.0 + n) for n, one in enumerate(settings)], settings[0])
    assert not found.of_levels
    assert found.names == {STEPS: "steps"}
    assert [one.settings for one in found.points] == [{STEPS: 8}, {STEPS: 16}]
    assert found.points[0].places == {}
    mixed = [{LEVEL: 0.1, STEPS: 8}, {LEVEL: 0.2, STEPS: 16}]
    found = section(experiment, [point(one, 5.0) for one in mixed], mixed[0])
    assert not found.of_levels
    assert found.points[1].places["sr"].level == 0.2


def test_a_level_has_no_one_log_snr_where_the_schedule_below_is_searched_too(experiment: Experiment) -> None:
    settings = [{LEVEL: s, "stages.base.schedule.steps": steps} for s, steps in ((0.1, 1000), (0.2, 4001))]
    found = section(experiment, [point(one, 5.0) for one in settings], settings[0])
    assert [one.places for one in found.points] == [{}, {}]


def test_differences_are_paired_and_to_the_chosen(experiment: Experiment) -> None:
    points = [point({STEPS: 8}, 5.0), point({STEPS: 16}, 6.5), point({STEPS: 4}, 9.0)]
    points[2] |= {"chained": scores(9.0, samples=10), "status": "dropped", "objective": math.inf}
    found = section(experiment, points, {STEPS: 8})
    chosen, other, dropped = found.points
    assert (chosen.behind, chosen.behind_error) == (None, None)
    assert (other.behind, other.behind_error) == (1.5, 0.0)  # the same blocks move both alike
    assert dropped.behind is None  # the FID of fewer samples is another figure
    assert (dropped.chained_fid, dropped.samples, dropped.accuracy) == (None, None, None)
    assert dropped.objective is None


def test_trials_are_ordered_by_their_end_and_then_by_how_good_they_were(experiment: Experiment) -> None:
    ends = [("failed", []), ("pruned", [[100, 9.0]]), ("finished", []), ("pruned", [[100, 8.0], [300, 7.0]])]
    points = [
        point({STEPS: n}, 5.0, status=status, rungs=rungs, error="ValueError: odd" if status == "failed" else None)
        for n, (status, rungs) in enumerate([*ends, ("finished", [])])
    ]
    points[4]["objective"] = 4.0
    found = section(experiment, points, {STEPS: 4}, kind="training")
    assert found.order == [4, 2, 3, 1, 0]
    assert found.ranks == {4: 1, 2: 2}
    assert found.counts == {"finished": 2, "pruned": 2, "failed": 1}
    assert found.errors == {"ValueError: odd": 1}


def test_what_an_older_search_did_not_say_is_left_out(experiment: Experiment) -> None:
    failed = {"settings": {STEPS: 4}, "error": "ValueError: odd", "objective": math.inf, "seconds": 0.1}
    found = section(experiment, [point({STEPS: 8}, 5.0), failed], {STEPS: 8})
    assert [one.status for one in found.points] == ["finished", "failed"]
    assert (found.front, found.why, found.shared, found.wall_seconds, found.times) == ([], "", "", None, None)


def test_one_trial_alone_is_a_section_too(experiment: Experiment) -> None:
    found = section(experiment, [point({STEPS: 8}, 5.0)], {STEPS: 8})
    assert (found.varied, found.chosen, len(found.points)) == ([], 0, 1)
