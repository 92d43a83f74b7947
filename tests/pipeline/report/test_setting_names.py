"""Names of settings are as short as they can be and still say which one is meant."""

from __future__ import annotations

import pytest

from pipeline.report.setting_names import differing, param_names, short_names, told_settings, told_value


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["stages.sr.sampling.level"], ["level"]),
        (["stages.sr.augmentation.blur.probability"], ["blur.probability"]),
        (["stages.sr.flip", "seed"], ["flip", "seed"]),
        (["stages.a.sampling.level", "stages.b.sampling.level"], ["a level", "b level"]),
        (["stages.a.sampling.steps", "stages.a.training.steps"], ["sampling.steps", "training.steps"]),
        (
            ["stages.a.sampling.augmentation", "stages.a.augmentation"],
            ["sampling.augmentation", "stages.a.augmentation"],
        ),
    ],
)
def test_names(paths: list[str], names: list[str]) -> None:
    assert list(short_names(paths).values()) == names


def test_what_differs_is_what_any_has_otherwise() -> None:
    assert differing([{"a": 1, "b": None, "c": [1, 2]}, {"a": 1, "b": False, "c": [1, 2]}]) == ["b"]
    assert differing([{"a": 1}, {"a": 1, "b": None}]) == ["b"]
    assert differing([{"a": 1}]) == []
    assert differing([]) == []


def test_values_read_as_yaml_has_them() -> None:
    told = [
        told_value(one) for one in (None, True, 3, 0.30000001, "ddim", [0.1, None], {"noise": {"levels": [0, 0.3]}})
    ]
    assert told == ["null", "true", "3", "0.3", "ddim", "[0.1, null]", "{noise: {levels: [0, 0.3]}}"]
    assert told_settings({"x.y": 2, "z": 1}, {"x.y": "y"}) == "y 2"


def test_params_lose_their_sections_where_that_leaves_them_apart() -> None:
    level, kind = "stages.sr.sampling.level", "stages.sr.sampling.augmentation"
    steps = "stages.base.sampling.steps", "stages.base.training.steps"
    assert param_names([level, kind, steps[0], "evaluation.seed", "stages.sr.net.channels"]) == {
        level: "sr.level",
        kind: "sr.augmentation",
        steps[0]: "base.steps",
        "evaluation.seed": "evaluation.seed",
        "stages.sr.net.channels": "sr.net.channels",
    }
    assert list(param_names(steps).values()) == ["base.sampling.steps", "base.training.steps"]
    trained = "stages.sr.augmentation.noise.levels"  # of training: "sr.augmentation" would read as what it lies in
    assert list(param_names([kind, trained]).values()) == ["sr.sampling.augmentation", "sr.augmentation.noise.levels"]
