"""Reading an experiment: every mistake is one sentence that says what, where and what would be right."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.experiment import digest_of, load_experiment, with_settings

TEXT = """\
name: tiny
data: {kind: drawn, size: 16}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
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
    assert experiment.kept_levels("base", searched=True) == (0.1, 0.3)
    assert experiment.kept_levels("base", searched=False) == ()  # the YAML's own kind is non_truncated
    assert experiment.kept_levels("sr", searched=True) == ()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("stages.base.net.chanels=3", "tiny.yaml:6: stages.base.net: unknown key 'chanels'; did you mean 'channels'?"),
        ("sead=3", "unknown key 'sead'; did you mean 'seed'?"),
        ("stages.base.training.steps=-3", "stages.base.training.steps: must be above 0 (given: -3)"),
        ("evaluation.samples=many", "evaluation.samples: must be a whole number (given: 'many')"),
        ("stages.sr.low_res_size=4", "low_res_size is 4, but the stage below, base, makes 8 px"),
        ("stages.base.low_res_size=4", "the first stage has no low-res input"),
        ("stages.sr.low_res_size=null", "set low_res_size or remove augmentation"),
        ("stages.sr.sampling.level=0.5", "outside the trained augmentation levels [0, 0.4]"),
        ("stages.base.net.attention=[5]", "attention at [5] px, but the feature maps are [8, 4] px"),
        ("data.size=24", "images of 24 px do not shrink evenly to 16 px"),
        ("data.kind=video", "data"),
        ("resources.recompute=64", "resources.recompute 64 px leaves nothing to compute again: the largest"),
        ("resources.workers=9", "batch_size 8 has 8 examples, too few for 9 workers"),
        ("name=a b", "name: must be a name of letters, digits, _ and - that begins with a letter or digit"),
        ("search.space={stages.sr.sampling.level: {values: [0.9]}}", "outside the trained augmentation levels"),
        ("search.space={stages.sr.sampling.levle: {values: [0.1]}}", "did you mean 'level'?"),
        ("search.space={stages.st.sampling.level: {values: [0.1]}}", "stages are base, sr"),
        ("search.space={seed: {values: [1]}}", "begin with stages.<name>"),
        ("search.space={stages: {values: [1]}}", "begin with stages.<name>"),
        (
            "search={algorithm: grid, space: {stages.sr.sampling.level: {uniform: [0, 0.2]}}}",
            "a grid needs {values: [...]}; for ranges leave algorithm out",
        ),
        (
            "search={samples: 200, screening: {samples: 200}, space: {stages.sr.sampling.level: {values: [0.1]}}}",
            "search.screening.samples 200 are the first of search.samples 200; lower them, or remove screening",
        ),
        ("stages.base.training.steps.more=1", "is a single value"),
        (
            "search.space={stages.sr.sampling.level: {uniforms: [0, 0.2]}}",
            "level: must be {values: [...]}, {uniform: [",
        ),
        ("search.space={stages.sr.sampling.level: {values: ['0.1', 0.2]}}", 'level = "0.1": the setting is 0.1 then'),
        ("search={mode: joint, space: {seed: {values: [1]}}}", "search.space seed: a search takes paths that begin"),
        (
            "search={algorithm: optuna, space: {stages.sr.sampling.level: {uniform: [0.2, 0.1]}}}",
            "uniform [0.2, 0.1] must be given as [low, high]",
        ),
        (
            "search={algorithm: optuna, space: {stages.sr.sampling.level: {loguniform: [0.1, 0.1]}}}",
            "loguniform [0.1, 0.1] must be given as [low, high]",
        ),
        (
            "search={algorithm: optuna, space: {stages.sr.sampling.steps: {uniform: [1, 8]}}}",
            "search.space stages.sr.sampling.steps: this setting is a whole number, and a range gives fractions",
        ),
        ("stages.base.training.betas=[0.9]", "stages.base.training.betas: has 1 value and needs 2"),
        ("stages.sr.augmentation.noise.levels=[0.3]", "augmentation.noise.levels: has 1 value and needs 2"),
        ("seed", "--set seed: give it as path=value"),
        ("seed=\x01", "the value is not valid YAML"),
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


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name an experiment file in it"):
        load_experiment(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match=r"x\.yaml: not UTF-8 text from byte 6 on"):
        load_experiment(tmp_path / "x.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment file .*/none\.yaml"):
        load_experiment(tmp_path / "none.yaml")


SINGLE = "stages.single={size: 16, net: {kind: unet, channels: 8}, training: {steps: 4, batch_size: 8}}"
BESIDE = "cascades={main: [base, sr], alone: [single]}"
OTHER = (
    "stages.other={size: 16, low_res_size: 8, net: {kind: unet, channels: 8}, training: {steps: 4, batch_size: 8}, "
    "augmentation: {noise: {levels: [0, 0.5]}}, sampling: {augmentation: truncated, level: 0.2}}"
)


def test_without_cascades_all_stages_are_one(file: Path) -> None:
    experiment = load_experiment(file)
    assert list(experiment.chains.values()) == [("base", "sr")]
    assert experiment.last == "sr"
    assert (experiment.below("sr"), experiment.below("base")) == ("base", None)
    assert (experiment.above("base"), experiment.above("sr")) == (("sr",), ())


def test_a_single_stage_stands_beside_a_cascade(file: Path) -> None:
    experiment = load_experiment(file, [SINGLE, BESIDE])
    assert experiment.last == "sr"
    assert experiment.chain("single") == ("single",)
    assert experiment.below("single") is None
    assert experiment.stage_spec("single", classes=10).low_res_schedule is None
    assert load_experiment(file, [SINGLE, "cascades={alone: [single], main: [base, sr]}"]).last == "single"


def test_cascades_share_stages_and_keep_what_all_above_may_ask_for(file: Path) -> None:
    experiment = load_experiment(file, [OTHER, "cascades={a: [base, sr], b: [base, other], c: [base]}"])
    assert experiment.above("base") == ("sr", "other")
    assert (experiment.chain("other"), experiment.chain("base")) == (("base", "other"), ("base",))
    assert experiment.kept_levels("base", searched=True) == (0.1, 0.2, 0.3)
    assert experiment.kept_levels("base", searched=False) == (0.2,)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([SINGLE, "cascades={a: [base, sr]}"], "stages.single is in no cascade; name it in one of cascades"),
        (["cascades={a: [base, st]}"], "cascades.a: there is no stage 'st'; stages are base, sr"),
        (["cascades={a: [sr, base]}"], "cascades.a: base comes after sr, so it must come after it under stages too"),
        (["cascades={a: [base, base, sr]}"], "cascades.a names base twice; a stage stands in a cascade once"),
        (["cascades={a: [base, sr], b: [base, sr]}"], "cascades.b is the same chain as a"),
        (["cascades={a: [base], b: [sr]}"], "stages.sr: the first stage has no low-res input"),
        (["cascades={a: []}"], "cascades.a: has no values and needs 1 or more"),
        (["cascades={}"], "cascades: has no values and needs 1 or more"),
        (
            [SINGLE, "cascades={a: [base, sr, single]}"],
            "stages.single: low_res_size is missing; the stage below, sr, makes 16 px",
        ),
        ([SINGLE, BESIDE, "search.mode=joint"], "search.mode joint scores the end of one cascade, and there are 2"),
    ],
)
def test_cascades_that_cannot_be_are_refused(file: Path, overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(file, overrides)
    assert says in str(caught.value)


def test_a_stage_stands_on_one_stage_alone(tmp_path: Path) -> None:
    second = "  base2:\n    size: 8\n    net: {kind: unet}\n    training: {steps: 4, batch_size: 8}\n"
    (tmp_path / "x.yaml").write_text(TEXT.replace("  sr:\n", second + "  sr:\n", 1))
    with pytest.raises(UserError) as caught:
        load_experiment(tmp_path / "x.yaml", ["cascades={a: [base, sr], b: [base2, sr]}"])
    assert "stages.sr stands on base in a and on base2 in b; give it another name in one of them" in str(caught.value)


STEPS = "stages.base.schedule={kind: linear_beta, steps: 20, beta_start: 0.005, beta_end: 0.9}"


def test_a_bound_is_of_the_stages_that_have_steps(file: Path) -> None:
    experiment = load_experiment(file, [STEPS, "evaluation.bound={images: 8}"])
    assert experiment.bounded == {"base": 20}
    with pytest.raises(UserError, match=r"evaluation\.bound\.steps 30 is more than the 20 steps of stages\.base"):
        load_experiment(file, [STEPS, "evaluation.bound={images: 8, steps: 30}"])


def space(**values: str) -> str:
    return "search.space={" + ", ".join(f"stages.sr.sampling.{path}: {text}" for path, text in values.items()) + "}"


@pytest.mark.parametrize(
    "overrides",
    [
        # Each alone is impossible beside the YAML's own settings; together they are not.
        ["stages.sr.sampling.sampler=ancestral", space(sampler="{values: [ddim]}", eta="{values: [0.5, 1.0]}")],
        [space(thresholding="{values: [dynamic]}", percentile="{values: [0.9, 0.99]}")],
        [
            "stages.sr.sampling.schedule={kind: linear_beta, steps: 100, beta_start: 0.001, beta_end: 0.2}",
            "search.space={stages.sr.sampling.schedule.beta_end: {values: [0.1, 0.3]}, "
            "stages.sr.sampling.schedule.beta_start: {values: [0.0001, 0.01]}}",
        ],
        [
            "stages.sr.training.averages={every: 2}",
            space(ema_length="{values: [null, 0.05, 0.1]}", guidance="{values: [1.0, 2.0]}"),
        ],
        [space(guidance_interval="{values: [null, [-2, 4]]}", guidance="{values: [2.0]}")],
        [space(schedule="{values: [null, {kind: linear_beta}]}")],
        [
            "search.algorithm=optuna",
            "stages.sr.sampling.sampler=ancestral",
            space(sampler="{values: [ddim]}", eta="{uniform: [0.1, 1.0]}"),
        ],
    ],
)
def test_searches_of_settings_that_only_go_together_are_taken(file: Path, overrides: list[str]) -> None:
    search = load_experiment(file, overrides).search
    assert search is not None
    assert len(search.space) == overrides[-1].count("stages.")


def test_an_impossible_combination_is_refused_and_named(file: Path) -> None:
    both = space(sampler="{values: [ddim, ancestral]}", eta="{values: [0.0, 0.5]}")
    told = r'search.space .*sampler = "ancestral", .*eta = 0.5: eta belongs to the sampler ddim'
    with pytest.raises(UserError, match=told):
        load_experiment(file, [both])
    with pytest.raises(UserError, match=r"search.space stages.sr.sampling.level = 0.9: "):
        load_experiment(file, [space(level="{values: [0.1, 0.9]}", steps="{values: [2, 4]}")])


def test_every_value_of_a_search_too_large_to_walk_is_checked(file: Path) -> None:
    started = time.process_time()
    many = "{values: [" + ", ".join(str(steps) for steps in range(1, 200)) + "]}"
    levels = "{values: [" + ", ".join(f"{level / 1000:g}" for level in range(200)) + ", 0.9, 0.1]}"
    with pytest.raises(UserError, match=r"search.space stages.sr.sampling.level = 0.9: "):
        load_experiment(file, [space(steps=many, level=levels)])
    assert time.process_time() - started < 10


def test_settings_are_nested_as_deeply_as_needed_and_may_be_null(file: Path) -> None:
    experiment = load_experiment(file, ["stages.sr.sampling.schedule={kind: linear_beta}"])
    changed = with_settings(experiment, {"stages.sr.sampling.schedule.beta_end": 0.03})
    assert changed.stages["sr"].sampling.schedule.beta_end == 0.03  # type: ignore[union-attr]
    assert with_settings(changed, {"stages.sr.sampling.schedule": None}).stages["sr"].sampling.schedule is None


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
