"""The graph of an experiment: what is shared, what depends on what, and what a setting leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dag import Node, ancestry
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.errors import UserError
from pipeline.experiment import load_experiment, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes

TEXT = """\
name: tiny
data: {kind: drawn, size: 16}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 3, batch_size: 8}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 3, batch_size: 8, averages: {every: 1}}
"""
SINGLE = "stages.single={size: 16, net: {kind: unet, channels: 8}, training: {steps: 3, batch_size: 8}}"
OTHER = "stages.other={size: 16, low_res_size: 8, net: {kind: unet, channels: 8}, training: {steps: 3, batch_size: 8}}"
STEPS = "{kind: linear_beta, steps: 20, beta_start: 0.005, beta_end: 0.6}"


def load(folder: Path, *overrides: str) -> Experiment:
    (folder / "tiny.yaml").write_text(TEXT)
    return load_experiment(folder / "tiny.yaml", [f"store={folder / 'store'}", *overrides])


def graph(experiment: Experiment) -> dict[str, Node]:
    """All nodes by name; no two nodes may share a name, or one of them would be lost."""
    nodes = ancestry(Nodes(experiment).evaluation())
    assert len({node.name for node in nodes}) == len(nodes)
    return {node.name: node for node in nodes}


def test_stages_of_one_size_are_judged_by_the_same_real_images(tmp_path: Path) -> None:
    nodes = graph(load(tmp_path, SINGLE, "cascades={main: [base, sr], alone: [single]}"))
    assert {name for name in nodes if name.startswith("scores/real/")} == {"scores/real/8", "scores/real/16"}
    chained = [nodes[f"scores/chained/{name}"] for name in ("sr", "single")]
    assert {node.inputs["reference"].digest for node in chained} == {nodes["real/train/16"].digest}


def test_a_stage_is_chained_on_the_stage_below_it_in_its_own_cascade(tmp_path: Path) -> None:
    nodes = graph(load(tmp_path, SINGLE, OTHER, "cascades={main: [base, sr], alone: [single], second: [base, other]}"))
    assert "below" not in nodes["chained/single"].inputs
    assert nodes["chained/sr"].inputs["below"] is not None
    assert nodes["chained/sr"].inputs["below"].digest == nodes["chained/other"].inputs["below"].digest
    for kind in ("oracle", "scores/oracle", "restoration"):
        assert {name for name in nodes if name.startswith(f"{kind}/")} == {f"{kind}/sr", f"{kind}/other"}


def test_a_second_cascade_leaves_the_first_alone(tmp_path: Path) -> None:
    before = graph(load(tmp_path))
    after = graph(load(tmp_path, SINGLE, "cascades={main: [base, sr], alone: [single]}"))
    assert {name: node.digest for name, node in after.items() if name in before} == {
        name: node.digest for name, node in before.items()
    }
    named = graph(load(tmp_path, "cascades={main: [base, sr]}"))
    assert {node.digest for node in named.values()} == {node.digest for node in before.values()}


def test_an_accuracy_score_is_another_with_other_workers_and_names_the_stages_of_its_samples(tmp_path: Path) -> None:
    asked = "evaluation.cas={batch_size: 8, net: {kind: resnet18}}"
    one, two = (graph(load(tmp_path, asked, f"resources.workers={workers}")) for workers in (1, 2))
    changed = {name for name in one if one[name].digest != two[name].digest}
    assert changed == {"cas/base", "cas/sr", "cas/real/8", "cas/real/16"}
    stages = {name: [mark["name"] for mark in two[name].context["stages"]] for name in sorted(changed)}
    assert stages == {"cas/base": ["base"], "cas/sr": ["base", "sr"], "cas/real/8": [], "cas/real/16": []}
    assert two["cas/sr"].context["stages"] == two["scores/chained/sr"].context["stages"]


def test_bounds_are_there_when_asked_for_and_where_there_are_steps(tmp_path: Path) -> None:
    stepped = f"stages.base.schedule={STEPS}"
    assert not [name for name in graph(load(tmp_path, stepped)) if name.startswith("bound/")]
    nodes = graph(load(tmp_path, stepped, "evaluation.bound={images: 8}"))
    assert [name for name in nodes if name.startswith("bound/")] == ["bound/base"]
    assert nodes["bound/base"].config["steps"] == 20
    assert nodes["bound/base"].config["variance"] == "posterior"
    learned = [
        "stages.base.sampling.steps=5",
        "stages.base.loss={kind: hybrid}",
        "stages.base.times=steps",
        "evaluation.bound={images: 8, steps: 5}",
    ]
    config = graph(load(tmp_path, stepped, *learned))["bound/base"].config
    assert (config["steps"], config["variance"]) == (5, "learned")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("guidance_interval", [-2.0, 4.0]), ("augmentation", "truncated")],
)
def test_settings_that_change_nothing_share_their_samples(tmp_path: Path, setting: str, value: object) -> None:
    experiment = load(tmp_path)
    changed = with_settings(experiment, {f"stages.sr.sampling.{setting}": value})
    assert Nodes(changed).chained("sr").digest == Nodes(experiment).chained("sr").digest


def test_sampling_settings_share_all_training(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    settings = {
        "stages.sr.sampling.ema_length": 0.1,
        "stages.sr.sampling.schedule": {"kind": "linear_beta"},
        "stages.sr.sampling.guidance": 2.0,
        "stages.sr.sampling.guidance_interval": [-2.0, 4.0],
    }
    for path, value in settings.items():
        settled = {path: value} if "interval" not in path else {path: value, "stages.sr.sampling.guidance": 2.0}
        nodes = Nodes(with_settings(experiment, settled))
        assert nodes.train("sr").digest == Nodes(experiment).train("sr").digest
        assert nodes.chained("base").digest == Nodes(experiment).chained("base").digest
        assert nodes.chained("sr").digest != Nodes(experiment).chained("sr").digest


SEARCH = "search={samples: 200, space: {stages.sr.sampling.level: {values: [0.1, 0.2]}}}"
TRUNCATED = "stages.sr.sampling={augmentation: truncated, level: 0.3}"


def search_digest(folder: Path, *overrides: str) -> str:
    return Nodes(load(folder, SEARCH, *overrides)).search().digest


@pytest.mark.parametrize(
    ("override", "reads"),
    [
        ("evaluation.precision=bf16", True),
        ("evaluation.block=32", True),
        ("evaluation.neighbours=2", True),
        ("evaluation.reference=600", True),
        ("evaluation.classifier.steps=2", True),
        ("stages.sr.training.steps=2", True),
        ("stages.sr.sampling.steps=2", True),
        ("stages.sr.sampling.guidance_interval=[-2, 4]", True),  # of no effect but beside a guidance that is searched
        ("search.metric=chained_accuracy", True),
        ("search.samples=299", True),
        ("search.seed=7", True),
        ("search.concurrency=1", False),
        ("search.trials=3", False),  # a grid has as many as it has
        ("evaluation.samples=500", False),
        ("evaluation.seed=5", False),
        ("evaluation.bound=null", False),
        ("description=other", False),
    ],
)
def test_a_search_is_another_when_what_its_trials_read_is(tmp_path: Path, override: str, reads: bool) -> None:
    assert (search_digest(tmp_path, override) != search_digest(tmp_path)) == reads


@pytest.mark.parametrize("space", ["sampling.level: {values: [0.1, 0.2]}", "training.learning_rate: {values: [0.1]}"])
@pytest.mark.parametrize("algorithm", ["grid", "drawn", "optuna"])
def test_how_many_run_at_once_is_read_by_what_optuna_proposes_alone(tmp_path: Path, algorithm: str, space: str) -> None:
    search = f"search={{samples: 200, algorithm: {algorithm}, space: {{stages.sr.{space}}}}}"
    reads = algorithm == "optuna"
    alone, more = (search_digest(tmp_path, search, f"search.concurrency={count}") for count in (1, 4))
    assert (alone != more) == reads
    few, many = (search_digest(tmp_path, search, f"resources.sampling_workers={count}") for count in (1, 4))
    assert (few != many) == (reads and space.startswith("sampling"))
    assert (few == search_digest(tmp_path, search, "search.concurrency=1")) == (not reads or few != many)


@pytest.mark.parametrize(
    ("space", "trained"),
    [
        ("stages.sr.sampling.level: {values: [0.1]}", {"base", "sr"}),
        ("stages.sr.training.learning_rate: {values: [0.1]}, stages.sr.sampling.level: {values: [0.1]}", {"base"}),
        ("stages.base.training.learning_rate: {values: [0.1]}", set()),  # the first round ends with the base
        ("stages.base.net.dropout: {values: [0.1]}, stages.sr.sampling.level: {values: [0.1]}", {"sr"}),
        ("stages.base.schedule: {values: [{kind: cosine}]}, stages.sr.sampling.level: {values: [0.1]}", set()),
    ],
)
def test_what_a_search_trains_itself_is_not_trained_before_it(tmp_path: Path, space: str, trained: set[str]) -> None:
    """A stage above another one is trained for the schedule of that one."""
    node = Nodes(load(tmp_path, f"search={{samples: 200, space: {{{space}}}}}")).search()
    assert {role.removeprefix("train ") for role in node.inputs if role.startswith("train ")} == trained


def test_a_search_leaves_stages_alone_that_it_does_not_score(tmp_path: Path) -> None:
    own = [SINGLE, "cascades={main: [base, sr], alone: [single]}"]
    other = [*own, "stages.single.training.steps=2"]
    assert search_digest(tmp_path, *own) == search_digest(tmp_path, *other)
    assert "train/single" not in {node.name for node in ancestry([Nodes(load(tmp_path, SEARCH, *own)).search()])}


def test_no_two_nodes_of_a_plan_share_a_name(tmp_path: Path) -> None:
    nodes = Nodes(load(tmp_path, SEARCH))
    names = [node.name for node in ancestry([nodes.search(), *nodes.evaluation()])]
    assert len(set(names)) == len(names)


def test_a_longer_search_draws_no_final_samples_again(tmp_path: Path) -> None:
    short, longer = load(tmp_path, TRUNCATED, SEARCH), load(tmp_path, TRUNCATED, SEARCH.replace("0.2]", "0.2, 0.4]"))
    assert Nodes(short).chained("base").digest == Nodes(longer).chained("base").digest
    assert Nodes(short).chained("base").config["keep"] == [0.3]
    assert Nodes(longer, trial=True).chained("base").config["keep"] == [0.1, 0.2, 0.3, 0.4]


def test_levels_inside_of_mappings_are_kept_for_trials(tmp_path: Path) -> None:
    listed = "{values: [{level: 0.1, augmentation: truncated}, {level: 0.2}, {}]}"
    experiment = load(tmp_path, f"search={{samples: 200, space: {{stages.sr.sampling: {listed}}}}}")
    assert Nodes(experiment, trial=True).chained("base").config["keep"] == [0.1, 0.2]


def test_a_data_set_that_was_moved_is_linked_anew_and_nothing_is_trained_again(tmp_path: Path) -> None:
    ingest_drawn(tmp_path / "here", seed=0, forms=make_forms([(16, "raw")]), train=20, val=10, shard_size=8)

    def nodes(place: str, reduction: str = "box") -> dict[str, Node]:
        data = f"data={{kind: shards, path: {tmp_path / place}, reduction: {reduction}}}"
        return graph(load(tmp_path, data, "evaluation.held_out=10"))

    before = nodes("here")
    (tmp_path / "here").rename(tmp_path / "there")
    after = nodes("there")
    assert before["data"].digest != after["data"].digest, "a stored link says where the data set was"
    assert {name for name in before if before[name].digest != after[name].digest} == {"data"}
    with pytest.raises(UserError, match=r"stages.base: only JPEG can be decoded at a fraction .* stored as 16-raw"):
        nodes("there", "dct")
