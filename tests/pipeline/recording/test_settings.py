"""Settings as params: flat, short, the same names in every trial."""

from __future__ import annotations

import json
from typing import Any

from pipeline.experiment_spec import Experiment
from pipeline.recording.settings import evaluation_params, flat_params, training_params

LEVEL, KIND = "stages.sr.sampling.level", "stages.sr.sampling.augmentation"
DECLARED: dict[str, Any] = {
    "stages": {
        "base": {"training": {"steps": 100}, "sampling": {"steps": 50}},
        "sr": {"augmentation": {"noise": {"levels": [0.0, 0.4]}, "blur": None}, "sampling": {"level": 0.0}},
    }
}


def test_what_a_trial_leaves_as_declared_has_its_value_too() -> None:
    trials: list[dict[str, Any]] = [{}, {LEVEL: 0.2}, {LEVEL: 0.2, KIND: "truncated"}]
    assert flat_params(trials, DECLARED, all_paths=False) == [
        {"sr.level": "0.0", "sr.augmentation": "none"},
        {"sr.level": "0.2", "sr.augmentation": "none"},
        {"sr.level": "0.2", "sr.augmentation": "truncated"},
    ]


def test_mappings_are_flat_and_none_reaches_down_into_them() -> None:
    path = "stages.sr.augmentation"
    trials: list[dict[str, Any]] = [
        {path: None},
        {path: {"noise": {"levels": [0.0, 0.9]}, "blur": {"probability": 0.5}}},
        {},
    ]
    assert flat_params(trials, DECLARED, all_paths=False) == [
        {"sr.augmentation.noise.levels": "none", "sr.augmentation.blur.probability": "none"},
        {"sr.augmentation.noise.levels": "[0.0, 0.9]", "sr.augmentation.blur.probability": "0.5"},
        {"sr.augmentation.noise.levels": "[0.0, 0.4]", "sr.augmentation.blur.probability": "none"},
    ]
    assert flat_params([{path: None}, {}], DECLARED, all_paths=False) == [
        {"sr.augmentation": "none"},
        {"sr.augmentation": "declared"},
    ]
    assert DECLARED["stages"]["sr"]["augmentation"]["noise"] == {"levels": [0.0, 0.4]}  # as it was


def test_what_is_the_same_everywhere_is_left_out_unless_asked_for() -> None:
    trials = [{LEVEL: 0.0}, {LEVEL: 0.0, "stages.sr.sampling.steps": 9}]
    assert [list(one) for one in flat_params(trials, DECLARED, all_paths=False)] == [["sr.steps"]] * 2
    assert [list(one) for one in flat_params(trials, DECLARED, all_paths=True)] == [["sr.level", "sr.steps"]] * 2


def test_what_a_cell_searches_has_its_values_although_the_keys_of_a_space_have_dots() -> None:
    search = {"samples": 100, "space": {LEVEL: {"values": [0.0, 0.2]}}}
    other = {"samples": 100, "space": {LEVEL: {"values": [0.1]}, KIND: {"values": ["truncated"]}}}
    level, kind = f"search.space.{LEVEL}.values", f"search.space.{KIND}.values"
    assert flat_params([{"search": search}, {"search": other}, {}], DECLARED, all_paths=False) == [
        {"search.samples": "100", level: "[0.0, 0.2]", kind: "none"},
        {"search.samples": "100", level: "[0.1]", kind: '["truncated"]'},
        {"search.samples": "none", level: "none", kind: "none"},
    ]


def test_runs_of_a_kind_have_the_same_params_whoever_makes_them() -> None:
    net = {"kind": "unet", "channels": 8}
    experiment = Experiment.model_validate({
        "name": "x", "seed": 4, "data": {"kind": "drawn", "size": 8},
        "stages": {"base": {
            "size": 8, "net": net, "training": {"steps": 90, "batch_size": 8}, "sampling": {"steps": 7},
        }},
    })  # fmt: skip
    training, evaluation = training_params(experiment, "base"), evaluation_params(experiment, "base", None)
    assert training | {"stage": "base", "size": "8", "seed": "4", "training.steps": "90"} == training
    assert (
        evaluation | {"stage": "base", "samples": "none", "sampling.steps": "7", "sampling.schedule": "none"}
        == evaluation
    )
    names = {name.split(".")[0] for name in training | evaluation}
    assert names == {"stage", "size", "seed", "training", "samples", "sampling"}
    assert "None" not in [*training.values(), *evaluation.values()]
    assert json.loads(training["training.batch_size"]) == 8
