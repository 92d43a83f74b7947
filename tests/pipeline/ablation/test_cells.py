"""Cells and seeds of an ablation: which experiments they are, what they share, and which mistakes are refused."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.ablation.cells import budget_notes, replicates_of
from pipeline.errors import UserError
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.trained_nodes import FEATURE_SEED

TEXT = """\
name: tiny
seed: 7
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3}
evaluation: {samples: 24, reference: 60, classifier: {steps: 5, channels: [8, 8]}}
"""
ABLATION = """\
ablation:
  baseline: none
  seeds: [0, 1, 2]
  cells:
    none: {}
    classless: {stages.sr.label_drop: 1.0}
  grid:
    strength:
      small: {stages.sr.augmentation: {noise: {levels: [0.0, 0.1]}}, stages.sr.sampling.level: 0.1}
      large: {stages.sr.augmentation: {noise: {levels: [0.0, 0.5]}}, stages.sr.sampling.level: 0.3}
    kind:
      truncated: {stages.sr.sampling.augmentation: truncated}
      non_truncated: {stages.sr.sampling.augmentation: non_truncated}
"""

SEARCHED = "search: {samples: 20, space: {stages.sr.sampling.steps: {values: [2, 3, 4]}}}"


def stage(size: int, low: int | None = None) -> str:
    below = "" if low is None else f"low_res_size: {low}, "
    net = "net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}"
    return f"{{size: {size}, {below}{net}, training: {{steps: 4, batch_size: 8}}}}"


def load(folder: Path, ablation: str = ABLATION, *settings: str) -> Experiment:
    file = folder / "tiny.yaml"
    file.write_text(TEXT + ablation)
    return load_experiment(file, [f"store={folder / 'store'}", *settings])


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return load(tmp_path_factory.mktemp("tiny"))


def test_the_grid_is_every_combination_beside_the_named_cells_seed_by_seed_baseline_first(
    experiment: Experiment,
) -> None:
    found = [(one.seed, one.cell) for one in replicates_of(experiment)]

    cells = ["none", "classless"]
    cells += ["small-truncated", "small-non_truncated", "large-truncated", "large-non_truncated"]
    assert found == [(seed, cell) for seed in (0, 1, 2) for cell in cells]


def test_replicates_of_a_seed_share_all_that_their_cells_leave_alone(experiment: Experiment) -> None:
    nodes = {(one.cell, one.seed): Nodes(one.experiment) for one in replicates_of(experiment)}

    def digests(name: str) -> dict[tuple[str, int], str]:
        return {key: each.train(name).digest for key, each in nodes.items()}

    base, sr = digests("base"), digests("sr")
    for seed in (0, 1, 2):
        assert len({digest for (_, mine), digest in base.items() if mine == seed}) == 1
        # Truncated and not share the weights; strengths do not.
        assert sr["small-truncated", seed] == sr["small-non_truncated", seed] != sr["large-truncated", seed]
    assert len(set(base.values())) == 3
    assert len(set(sr.values())) == 12  # none, classless, small, large under each of three seeds


def test_what_judges_is_one_for_all_seeds_and_noise_differs_between_them(experiment: Experiment) -> None:
    found = replicates_of(experiment)

    judges = {Nodes(one.experiment).judge.digest for one in found}
    features = {Nodes(one.experiment).classifier("features", FEATURE_SEED).digest for one in found}
    noise = {one.seed: one.experiment.evaluation.seed for one in found}
    assert judges == {Nodes(experiment).judge.digest}
    assert len(features) == 1
    assert len(set(noise.values())) == 3
    assert {one.experiment.evaluation.seed for one in found if one.seed == 1} == {noise[1]}


def test_a_cells_own_search_has_other_noise_under_every_seed_and_never_that_of_the_scores(tmp_path: Path) -> None:
    searched = ABLATION.replace(
        "none: {}",
        "none: {search: {samples: 20, space: {stages.sr.sampling.steps: {values: [2, 3]}}}}",
    )
    found = [one for one in replicates_of(load(tmp_path, searched)) if one.cell == "none"]

    seeds = {one.experiment.search.seed for one in found if one.experiment.search}
    assert len(seeds) == 3
    assert not seeds & {one.experiment.evaluation.seed for one in found}


def test_the_command_of_a_replicate_gives_the_same_graph(tmp_path: Path) -> None:
    experiment = load(tmp_path, ABLATION.replace("    none: {}\n", f"    none: {{}}\n    searched: {{{SEARCHED}}}\n"))
    file = tmp_path / "tiny.yaml"
    assert any(replicate.experiment.search is not None for replicate in replicates_of(experiment))
    for replicate in replicates_of(experiment):
        said = shlex.split(replicate.command(["rayfall", "run", str(file), "--set", f"store={experiment.store}"]))
        settings = [value for option, value in pairwise(said) if option == "--set"]
        again = load_experiment(file, settings)
        own = f"tiny-{replicate.cell}-seed{replicate.seed}"
        assert again == replicate.experiment.model_copy(update={"name": own})
        assert again.ablation is None
        mine, theirs = Nodes(replicate.experiment).evaluation(), Nodes(again).evaluation()
        if again.search is not None:
            mine, theirs = [*mine, Nodes(replicate.experiment).search()], [*theirs, Nodes(again).search()]
        assert [node.digest for node in mine] == [node.digest for node in theirs]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("stages.sr.training.steps: 6", "classless trains sr on 48 images, the baseline on 32"),
        (
            f"stages: {{base: {stage(4)}, mid: {stage(8, 4)}, sr: {stage(16, 8)}}}",
            "classless trains mid on 32 images, the baseline has no such stage",
        ),
        (f"stages: {{sr: {stage(16)}}}", "classless has no stage base, which the baseline trains on 32 images"),
        (SEARCHED, "classless searches 3 settings, the baseline none"),
        (
            "search: {trials: 7, samples: 20, space: {stages.sr.sampling.guidance: {uniform: [1.0, 2.0]}}}",
            "classless searches 7 settings, the baseline none",
        ),
    ],
)
def test_another_effort_than_the_baselines_is_told(cell: str, told: str, tmp_path: Path) -> None:
    other = f"ablation: {{baseline: none, cells: {{none: {{}}, classless: {{{cell}}}}}}}"

    assert list(budget_notes(load(tmp_path, other))) == [f"{told}: budgets differ."]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("baseline: none", "baseline: nothing"), "there is no cell 'nothing'; cells are none, classless"),
        (("seeds: [0, 1, 2]", "seeds: [0, 1]"), "ablation.seeds: has 2 values and needs 3 or more"),
        (("seeds: [0, 1, 2]", "seeds: [0, 1, 1]"), "seeds names 1 twice"),
        (("classless:", "small-truncated:"), "cells.small-truncated is a combination of the grid as well"),
        (("stages.sr.label_drop: 1.0", "evaluation.samples: 5"), "evaluation.samples is the same for every cell"),
        (("stages.sr.label_drop: 1.0", "stages.sr.label_drop: 2"), "ablation cell classless: stages.sr.label_drop"),
        (("stages.sr.label_drop: 1.0", "stages.sr.sampling.level: 0.2"), "outside the trained augmentation levels"),
        (("stages.sr.label_drop: 1.0", ""), "ablation cell classless has the same settings as none"),
        (
            ("stages.sr.label_drop: 1.0", "stages.sr.sampling.augmentation: truncated"),  # at s = 0 the kinds are one
            "ablation cell classless has the same settings as none",
        ),
        (
            ("stages.sr.label_drop: 1.0", f"stages: {{base: {stage(8)}}}"),
            "ablation cell classless ends with stage base at 8 px, and what is compared are scores of sr at 16 px",
        ),
        (
            ("stages.sr.label_drop: 1.0", f"stages: {{base: {stage(4)}, sr: {stage(8, 4)}}}"),
            "ablation cell classless ends with stage sr at 8 px",
        ),
        (
            ("stages.sr.label_drop: 1.0", "search: {samples: 20, space: {stages.sr99.sampling.steps: {values: [2]}}}"),
            "ablation cell classless: search.space stages.sr99.sampling.steps: a search takes paths that begin with",
        ),
        (
            ("stages.sr.label_drop: 1.0", "search: {samples: 20, space: {stages.sr.sampling.level: {values: [0.9]}}}"),
            "ablation cell classless: search.space stages.sr.sampling.level = 0.9: sampling.level is 0.9, outside",
        ),
        (
            ("stages.sr.label_drop: 1.0", "stages.sr.size.width: 3"),
            "ablation cell classless: stages.sr.size.width: stages.sr.size is a single value",
        ),
        (
            ("stages.sr.label_drop: 1.0", "stages.sr.net: {kind: unet, channels: eight}"),
            "ablation cell classless: stages.sr.net.channels: must be a whole number",
        ),
        (
            ("seeds: [0, 1, 2]", "seeds: [0, 1, 4611686018427387904]"),
            "ablation cell none, seed 4611686018427387904: evaluation.seed: must be below",
        ),
        (
            ("baseline: none", "baseline: none\n  equal: [{cells: [none, none], margin: 1}]"),
            "ablation.equal.0: a claim of equality is of two cells, and both of this one are none",
        ),
        (
            (
                "    strength:\n",
                "    first: {a: {}, a-b: {stages.sr.label_drop: 0.5}}\n"
                "    second: {b-c: {stages.sr.sampling.steps: 2}, c: {}}\n    strength:\n",
            ),
            "two combinations of the grid are called a-b-c-small-truncated; rename an option",
        ),
    ],
)
def test_a_mistake_is_refused_when_the_experiment_is_read(
    change: tuple[str, str], sentence: str, tmp_path: Path
) -> None:
    assert change[0] in ABLATION
    with pytest.raises(UserError) as caught:
        load(tmp_path, ABLATION.replace(*change))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_changes_no_image_by_itself_may_do_so_in_a_search(tmp_path: Path) -> None:
    kinds = ABLATION.replace("none: {}", f"none: {{{SEARCHED}}}").replace(
        "stages.sr.label_drop: 1.0", f"stages.sr.sampling.augmentation: truncated, {SEARCHED}"
    )
    assert load(tmp_path, kinds).ablation is not None


def test_an_experiment_without_the_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no ablation section"):
        replicates_of(load(tmp_path, ""))
