"""Settings as params: flat, short, the same names in every trial."""

from __future__ import annotations

from typing import Any

from pipeline.recording.settings import flat_params, param_names

LEVEL, KIND = "stages.sr.sampling.level", "stages.sr.sampling.augmentation"
DECLARED: dict[str, Any] = {
    "stages": {
        "base": {"training": {"steps": 100}, "sampling": {"steps": 50}},
        "sr": {"augmentation": {"noise": {"levels": [0.0, 0.4]}, "blur": None}, "sampling": {"level": 0.0}},
    }
}


def test_names_lose_their_sections_where_that_leaves_them_apart() -> None:
    steps = "stages.base.sampling.steps", "stages.base.training.steps"
    assert param_names([LEVEL, KIND, steps[0], "evaluation.seed", "stages.sr.net.channels"]) == {
        LEVEL: "sr.level",
        KIND: "sr.augmentation",
        steps[0]: "base.steps",
        "evaluation.seed": "evaluation.seed",
        "stages.sr.net.channels": "sr.net.channels",
    }
    assert list(param_names(steps).values()) == ["base.sampling.steps", "base.training.steps"]
    trained = "stages.sr.augmentation.noise.levels"  # of training: "sr.augmentation" would read as what it lies in
    assert list(param_names([KIND, trained]).values()) == ["sr.sampling.augmentation", "sr.augmentation.noise.levels"]


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
