"""Reading an experiment: every mistake is one sentence that says what, where and what would be right."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.experiment import digest_of, load_experiment, with_settings

TEXT = """\
name: tiny
data: {kind: drawn, size: 16, train: 40, val: 20}
stages:
  base:
    size: 8
    net: {channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
  sr:
    size: 16
    low_res_size: 8
    net: {channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 4, batch_size: 8}
    sampling: {level: 0.1}
search:
  space:
    stages.sr.sampling.level: {values: [0.0, 0.1, 0.3]}
    stages.sr.sampling.augmentation: {values: [truncated, non_truncated]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


def test_the_file_and_what_its_neighbours_imply(file: Path) -> None:
    experiment = load_experiment(file, ["stages.base.schedule.shift=1e-1"])  # a float, as YAML 1.2 has it
    assert experiment.names == ("base", "sr")
    spec = experiment.stage_spec("sr", classes=10)
    assert spec.low_res_schedule is not None
    assert spec.low_res_schedule.shift == 0.1
    assert experiment.kept_levels("base") == (0.1, 0.3)
    assert experiment.kept_levels("sr") == ()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.base.net.chanels=3", "tiny.yaml:6: stages.base.net: unknown key 'chanels'; did you mean 'channels'?"),
        ("sead=3", "unknown key 'sead'; did you mean 'seed'?"),
        ("stages.base.training.steps=-3", "stages.base.training.steps: Input should be greater than 0 (given: -3)"),
        ("evaluation.samples=many", "evaluation.samples: Input should be a valid integer"),
        ("stages.sr.low_res_size=4", "low_res_size is 4, but the stage below, base, makes 8 px"),
        ("stages.base.low_res_size=4", "the first stage has no low-res input"),
        ("stages.sr.low_res_size=null", "low_res_size is None, but the stage below, base, makes 8 px"),
        ("stages.sr.sampling.level=0.5", "outside the trained augmentation levels [0, 0.4]"),
        ("stages.base.net.attention=[5]", "attention at [5] px, but the feature maps are [8, 4] px"),
        ("data.size=24", "images of 24 px do not shrink evenly to 16 px"),
        ("data.kind=video", "data"),
        ("resources.workers=3", "batch_size 8 does not divide among 3 workers"),
        ("name=a b", "name: String should match pattern"),
        ("search.space={stages.sr.sampling.level: {values: [0.9]}}", "outside the trained augmentation levels"),
        ("search.space={stages.sr.sampling.levle: {values: [0.1]}}", "did you mean 'level'?"),
        ("search.space={stages.st.sampling.level: {values: [0.1]}}", "stages are base, sr"),
        ("search.space={seed: {values: [1]}}", "begin with stages.<name>"),
        ("search.space={stages.sr.sampling.level: {uniform: [0, 0.2]}}", "a grid needs {values: [...]}"),
        ("stages.base.training.steps.more=1", "is a single value"),
        ("seed", "--set seed: give it as path=value"),
        ("seed=[1", "the value is not valid YAML"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(file: Path, override: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(file, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "not valid YAML"),
        ("- a list", "an experiment is a mapping"),
        ("", "an experiment is a mapping"),
        ("name: x\nname: y\n", "not valid YAML"),
        (TEXT.replace("    size: 8\n", "", 1), "stages.base.size: this setting is missing"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml") as caught:
        load_experiment(tmp_path / "x.yaml")
    assert says in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment file .*/none\.yaml"):
        load_experiment(tmp_path / "none.yaml")


def test_settings_are_validated_again_and_the_original_stays(file: Path) -> None:
    experiment = load_experiment(file)
    changed = with_settings(experiment, {"stages.sr.sampling.level": 0.3, "seed": 4})
    assert (changed.seed, changed.stages["sr"].sampling.level) == (4, 0.3)
    assert (experiment.seed, experiment.stages["sr"].sampling.level) == (0, 0.1)


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [1.5, None]}) == digest_of({"b": [1.5, None], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})


def test_shipped_experiments_are_valid() -> None:
    folder = Path(__file__).parents[2] / "jobs" / "experiments"
    found = [load_experiment(path) for path in sorted(folder.glob("*.yaml"))]
    assert "demo" in [experiment.name for experiment in found]
    started = time.process_time()
    load_experiment(folder / "demo.yaml")
    assert time.process_time() - started < 2.0
