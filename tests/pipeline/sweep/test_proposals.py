"""What a sweep tries, and that what it tries is known beforehand where it can be: one pass serves what is above."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.dag import ancestry
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.run import rounds_of
from pipeline.search.spec import SearchSpec
from pipeline.search.trials import targets_of
from pipeline.sweep.proposals import Suggested, drawn_of, halton, proposals_of, radical_inverse, with_drawn_lists

LEVEL, KIND, STEPS = (f"stages.sr16.sampling.{name}" for name in ("level", "augmentation", "steps"))


def tiny(store: Path, stages: int = 2, **search: Any) -> Experiment:
    return swept_experiment(store, stages, samples=48, base_steps=2, channels=8, block=16, search=search)


def test_radical_inverses_mirror_the_digits() -> None:
    assert [radical_inverse(number, 2) for number in range(1, 8)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    assert radical_inverse(7, 3) == pytest.approx(1 / 3 + 2 / 9)


def test_halton_points_are_spread_evenly_and_shifted_by_the_seed() -> None:
    points = np.array([point for point, _ in zip(halton(2, 1), range(36), strict=False)])
    assert ((points >= 0) & (points < 1)).all()
    for axis, base in enumerate((2, 3)):
        cells = base**2
        assert np.ptp(np.bincount((points[:, axis] * cells).astype(int), minlength=cells)) <= 2
    others = [point for point, _ in zip(halton(2, 2), range(36), strict=False)]
    assert not np.allclose(points, others)


def test_a_drawn_list_is_distinct_within_its_ranges_and_the_same_every_time() -> None:
    ranges = {
        "a.level": {"uniform": [0.0, 0.3]},
        "b": {"loguniform": [0.01, 1.0]},
        "c": {"values": ["x", None, [1, 2]]},
    }
    search = SearchSpec.model_validate({"algorithm": "drawn", "trials": 30, "space": ranges})
    drawn = drawn_of(search, list(ranges))
    assert drawn == drawn_of(search, list(ranges))
    assert len({json.dumps(settings) for settings in drawn}) == 30
    assert all(0 <= settings["a.level"] <= 0.3 and 0.01 <= settings["b"] <= 1 for settings in drawn)
    assert Counter(json.dumps(settings["c"]) for settings in drawn).keys() == {'"x"', "null", "[1.0, 2.0]"}
    below_tenth = sum(settings["b"] < 0.1 for settings in drawn)
    assert 13 <= below_tenth <= 17, "half of the logarithms"
    few = SearchSpec.model_validate({"algorithm": "drawn", "trials": 30, "space": {"c": ranges["c"]}})
    assert len(drawn_of(few, ["c"])) == 3, "no more than there are"


def score(settings: dict[str, Any]) -> float:
    return float((settings["a"] - 0.2) ** 2 + settings["b"])


@pytest.mark.parametrize("concurrency", [1, 3])
def test_optuna_proposes_the_same_again_whichever_trial_ends_first(concurrency: int) -> None:
    space = {"a": {"uniform": [0.0, 1.0]}, "b": {"values": [0, 1, 2]}}
    search = SearchSpec.model_validate({"algorithm": "optuna", "concurrency": concurrency, "space": space})

    def proposed(count: int) -> list[dict[str, Any]]:
        proposals, asked, told_of = proposals_of(search, list(space)), [], 0
        assert isinstance(proposals, Suggested)
        while len(asked) < count:
            while len(asked) - told_of < concurrency:
                asked.append(proposals.ask())
            proposals.tell(score(asked[told_of]))
            told_of += 1
        return asked

    assert proposed(24) == proposed(24)
    assert proposed(12) == proposed(24)[: len(proposed(12))], "a search that was cut short began in the same way"
    assert np.mean([score(settings) for settings in proposed(24)[14:]]) < 0.9, "at random 1.17"


def test_optuna_is_told_of_failures_and_drops() -> None:
    search = SearchSpec.model_validate({"algorithm": "optuna", "space": {"a": {"uniform": [0.0, 1.0]}}})
    proposals = Suggested(search, ["a"])
    for told_of in ({"objective": None}, {"objective": None, "rung": (32, 9.0)}, {"objective": 1.0}):
        proposals.ask()
        proposals.tell(**told_of)
    states = [trial.state.name for trial in proposals._study.trials]
    assert states == ["FAIL", "PRUNED", "COMPLETE"]
    assert proposals._study.trials[1].intermediate_values == {32: 9.0}


KINDS = ["truncated", "non_truncated"]
SPACES = {
    "levels": {"stages.sr16.sampling.level": {"values": [0.0, 0.1, 0.2]}},
    "kinds": {LEVEL: {"values": [0.0, 0.1]}, KIND: {"values": KINDS}},
    "guidance": {
        LEVEL: {"values": [0.1, 0.2]},
        "stages.sr16.sampling.guidance": {"values": [1.0, 2.0]},
        "stages.sr16.sampling.guidance_interval": {"values": [None, [-2.0, 4.0]]},
    },
    "samplers": {
        LEVEL: {"values": [0.1, 0.2]},
        "stages.sr16.sampling.sampler": {"values": ["ddim", "dpmpp_2m", "heun", "ancestral"]},
        STEPS: {"values": [2, 4]},
    },
    "averages": {LEVEL: {"values": [0.1, 0.2]}, "stages.sr16.sampling.ema_length": {"values": [None, 0.1]}},
    "mappings": {"stages.sr16.sampling": {"values": [{"level": 0.1, "augmentation": "truncated"}, {"level": 0.2}, {}]}},
    "drawn": {LEVEL: {"uniform": [0.0, 0.4]}, KIND: {"values": KINDS}},
}


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("name", list(SPACES))
def test_one_pass_of_the_base_serves_every_setting_above_it(tmp_path: Path, name: str, stages: int) -> None:
    """Of all trials of all rounds: one base; and under the third stage one second stage for each trial of the second
    that it is drawn on, which is the one that was chosen."""
    space = dict(SPACES[name])
    if stages == 3:
        space |= {"stages.sr32.sampling.level": {"values": [0.1, 0.2]}}
    drawing: dict[str, Any] = {"algorithm": "drawn", "trials": 6} if name == "drawn" else {}
    experiment = tiny(tmp_path, stages, space=space, **drawing)
    if name == "averages":
        settings = {f"stages.{stage}.training.averages": {"every": 1} for stage in experiment.names}
        experiment = with_settings(experiment, settings)
    declared, listed = experiment.search, with_drawn_lists(experiment)
    assert declared is not None
    chosen: dict[str, Any] = {}
    drawn: dict[str, set[str]] = {}
    tried = 0
    for stage, paths in rounds_of(experiment):
        proposals = proposals_of(declared, paths)
        settings = None
        while (proposed := proposals.ask()) is not None:
            settings = chosen | proposed
            tried += 1
            for node in ancestry(targets_of(with_settings(listed, settings), stage)):
                drawn.setdefault(node.name, set()).add(node.digest)
        assert settings is not None
        chosen = settings  # whichever it is
    assert tried >= 2
    assert len(drawn["chained/base"]) == 1
    assert len(drawn["real/train/16"]) == len(drawn["classifier/judge"]) == len(drawn["train/sr16"]) == 1
    if stages == 2:
        distinct = len(drawn["scores/chained/sr16"])
        assert len(drawn["chained/sr16"]) == distinct > 1


def test_a_round_of_the_base_leaves_the_base_as_the_round_above_asks_for_it(tmp_path: Path) -> None:
    """The declared level, which no list names, stands in the trials of the base and in none of those above."""
    space = {"stages.base.sampling.steps": {"values": [2, 3]}, LEVEL: {"values": [0.1, 0.2]}}
    experiment = tiny(tmp_path, space=space)

    def bases(experiment: Experiment) -> set[str]:
        settings = [{}, {LEVEL: 0.1}, {LEVEL: 0.2}]
        return {Nodes(with_settings(experiment, one), trial=True).chained("base").digest for one in settings}

    assert len(bases(experiment)) == 2
    assert len(bases(with_drawn_lists(experiment))) == 1


def test_jointly_every_setting_of_the_base_has_one_pass(tmp_path: Path) -> None:
    space = {"stages.base.sampling.steps": {"values": [2, 3]}, LEVEL: {"values": [0.1, 0.2]}, KIND: {"values": KINDS}}
    experiment = tiny(tmp_path, mode="joint", space=space)
    assert experiment.search is not None
    ((stage, paths),) = rounds_of(experiment)
    proposals, digests = proposals_of(experiment.search, paths), set()
    while (settings := proposals.ask()) is not None:
        targets = targets_of(with_settings(with_drawn_lists(experiment), settings), stage)
        digests |= {node.digest for node in ancestry(targets) if node.name == "chained/base"}
    assert len(digests) == 2
