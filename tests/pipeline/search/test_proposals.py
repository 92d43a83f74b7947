"""What a search tries, and that what it tries is known beforehand where it can be: one pass serves what is above."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.dag import ancestry
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.proposals import (
    Proposal,
    Suggested,
    Told,
    drawn_of,
    halton,
    is_within,
    most_trials,
    proposals_of,
    radical_inverse,
    with_drawn_lists,
)
from pipeline.search.run import rounds_of
from pipeline.search.spec import SearchSpec, grid_of
from pipeline.search.trials import targets_of

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


def proposed(search: SearchSpec, count: int, ends: Callable[[int], int]) -> list[dict[str, Any]]:
    """What is proposed where as many trials as the search says run at once, and ``ends`` names which of them ends; they
    are told of in the order in which they were proposed, as a sweep does."""
    suggested = proposals_of(search, list(search.space))
    assert isinstance(suggested, Suggested)
    asked: list[Proposal] = []
    ended: set[int] = set()
    told = 0
    while len(asked) < count:
        while len(asked) - told < search.trials_at_once(list(search.space), 2):
            asked.append(suggested.ask())
        if told in ended:
            suggested.tell(asked[told], Told(score(asked[told].settings)))
            told += 1
        else:
            running = [number for number in range(told, len(asked)) if number not in ended]
            ended.add(running[ends(len(running))])
    return [proposal.settings for proposal in asked]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_optuna_proposes_the_same_again_whichever_trial_ends_first(concurrency: int) -> None:
    space = {"a": {"uniform": [0.0, 1.0]}, "b": {"values": [0, 1, 2]}}
    search = SearchSpec.model_validate({"algorithm": "optuna", "concurrency": concurrency, "space": space})

    def oldest(count: int) -> int:
        return 0

    def newest(count: int) -> int:
        return count - 1

    found = proposed(search, 24, oldest)[:24]
    assert proposed(search, 24, newest)[:24] == found
    assert proposed(search, 12, oldest) == found[: len(proposed(search, 12, oldest))], "cut short it began the same way"
    assert np.mean([score(settings) for settings in found[14:]]) < 0.9, "at random 1.17"


def test_optuna_is_told_of_failures_and_drops() -> None:
    search = SearchSpec.model_validate({"algorithm": "optuna", "space": {"a": {"uniform": [0.0, 1.0]}}})
    proposals = Suggested(search, ["a"])
    for told in (Told(), Told(rungs=((32, 9.0),)), Told(1.0)):
        proposals.tell(proposals.ask(), told)
    states = [trial.state.name for trial in proposals._study.trials]
    assert states == ["FAIL", "PRUNED", "COMPLETE"]
    assert proposals._study.trials[1].intermediate_values == {32: 9.0}


def test_no_proposal_stays_open_when_the_same_is_proposed_again() -> None:
    search = SearchSpec.model_validate({"algorithm": "optuna", "space": {"a": {"values": [1, 2]}}})
    proposals = Suggested(search, ["a"])
    first = proposals.ask()
    while (second := proposals.ask()).settings != first.settings:
        proposals.tell(second, Told(2.0))
    proposals.tell(second, Told())  # it is another's trial
    proposals.tell(first, Told(1.0))
    states = [trial.state.name for trial in proposals._study.trials]
    assert (states[0], states[-1]) == ("COMPLETE", "FAIL")
    assert "RUNNING" not in states


def test_optuna_takes_any_seed() -> None:
    search = SearchSpec.model_validate({"seed": 5_000_000_000, "space": {"a": {"uniform": [0.0, 1.0]}}})
    assert 0.0 <= Suggested(search, ["a"]).ask().settings["a"] <= 1.0


def test_optuna_learns_from_trials_of_an_earlier_command() -> None:
    """Told that small values are good, it proposes smaller ones than without being told."""
    space = {"a": {"loguniform": [1e-4, 1e-1]}, "b": {"values": [None, [0.0, 0.2], {"c": 1}]}}
    search = SearchSpec.model_validate({"algorithm": "optuna", "space": space})

    def told(value: float) -> tuple[dict[str, Any], Told]:
        return {"a": value, "b": [0.0, 0.2]}, Told(math.log(value))

    def middle(known: list[tuple[dict[str, Any], Told]]) -> float:
        proposals, found = Suggested(search, list(space), known), []
        for _ in range(12):
            proposal = proposals.ask()
            assert is_within(search, proposal.settings, list(space))
            found.append(math.log10(proposal.settings["a"]))
            proposals.tell(proposal, told(proposal.settings["a"])[1])
        return sorted(found)[6]

    assert middle([told(10 ** (-4 + 3 * share / 19)) for share in range(20)]) < -3.4 < middle([])


def test_of_earlier_trials_those_that_were_cut_short_are_known_and_failed_ones_not() -> None:
    search = SearchSpec.model_validate({"algorithm": "optuna", "space": {"a": {"uniform": [0.0, 1.0]}}})
    known = [({"a": 0.1}, Told(rungs=((3, 5.0),))), ({"a": 0.2}, Told()), ({"a": 0.3}, Told(4.0))]
    proposals = Suggested(search, ["a"], known)
    assert [trial.state.name for trial in proposals._study.trials] == ["PRUNED", "COMPLETE"]
    proposals.tell(Proposal({"a": 0.4}), Told(3.0))  # begun by an earlier command
    assert proposals._study.best_params == {"a": 0.4}


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
        listed_settings = proposals_of(declared, paths)
        assert isinstance(listed_settings, list)
        settings = None
        for one in listed_settings:
            settings = chosen | one
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
    digests = set()
    for settings in grid_of(experiment.search, paths):
        targets = targets_of(with_settings(with_drawn_lists(experiment), settings), stage)
        digests |= {node.digest for node in ancestry(targets) if node.name == "chained/base"}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("algorithm", "paths", "most"),
    [("grid", "ab", 6), ("optuna", "ab", 5), ("optuna", "b", 2), ("drawn", "b", 2), ("optuna", "bc", 5)],
)
def test_a_round_has_as_many_trials_as_asked_for_or_as_lists_allow(algorithm: str, paths: str, most: int) -> None:
    space: dict[str, Any] = {"a": {"values": [1, 2, 3]}, "b": {"values": [1, 2]}, "c": {"uniform": [0.0, 1.0]}}
    space = {path: space[path] for path in paths}
    search = SearchSpec.model_validate({"algorithm": algorithm, "trials": 5, "space": space})
    assert most_trials(search, list(space)) == most
