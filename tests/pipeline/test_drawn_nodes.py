"""What a trial's draws are known by: their images, whatever levels are kept of them; and the draws of a first look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.proposals import with_drawn_lists
from pipeline.search.trials import targets_of

LEVEL, KIND = "stages.sr16.sampling.level", "stages.sr16.sampling.augmentation"


def searched(store: Path, stages: int = 2, **search: Any) -> Experiment:
    return swept_experiment(store, stages, samples=90, base_steps=4, channels=8, block=16, search=search)


def trial(experiment: Experiment, settings: dict[str, Any]) -> Nodes:
    return Nodes(with_settings(with_drawn_lists(experiment), settings), trial=True)


@pytest.mark.parametrize("kind", ["truncated", "non_truncated"])
def test_scores_stay_when_a_search_lists_one_level_more(tmp_path: Path, kind: str) -> None:
    kinds = {"values": ["truncated", "non_truncated"]}
    few = searched(tmp_path, space={LEVEL: {"values": [0.1, 0.2]}, KIND: kinds})
    more = searched(tmp_path, space={LEVEL: {"values": [0.1, 0.2, 0.4]}, KIND: kinds})
    settings = {LEVEL: 0.1, KIND: kind}
    one, other = trial(few, settings), trial(more, settings)
    assert one.chained("base").config["keep"] == [0.1, 0.2, 0.3], "the declared level beside those searched"
    assert one.chained("base").digest != other.chained("base").digest, "a result that lacks a level is not taken"
    assert one.chained("base").key != other.chained("base").key
    assert one.chained("base").identity == other.chained("base").identity
    assert [node.digest for node in one.trial_targets("sr16")] == [node.digest for node in other.trial_targets("sr16")]
    assert one.scores("chained", "base").digest == other.scores("chained", "base").digest


def test_other_images_are_other_scores_whatever_is_kept(tmp_path: Path) -> None:
    experiment = searched(tmp_path, space={LEVEL: {"values": [0.1, 0.2]}})
    settings = [{LEVEL: 0.1}, {LEVEL: 0.2}, {"stages.base.sampling.steps": 3}, {"search.seed": 7}]
    settings += [{LEVEL: 0.1, KIND: "non_truncated"}, {"search.samples": 80}]
    digests = {trial(experiment, one).trial_targets("sr16")[0].digest for one in settings}
    assert len(digests) == len(settings)


def test_more_trials_of_a_drawn_list_leave_those_before_as_they_were(tmp_path: Path) -> None:
    def digests(trials: int) -> list[str]:
        experiment = searched(tmp_path, algorithm="drawn", trials=trials, space={LEVEL: {"uniform": [0.05, 0.4]}})
        listed = with_drawn_lists(experiment).search
        assert listed is not None
        values = listed.model_dump(mode="json")["space"][LEVEL]["values"]
        return [targets_of(trial(experiment, {LEVEL: value}).experiment, "sr16")[0].digest for value in values[:2]]

    assert digests(2) == digests(4)


def test_final_samples_are_known_by_the_levels_that_they_keep(tmp_path: Path) -> None:
    experiment = searched(tmp_path, space={LEVEL: {"values": [0.1]}})
    node = Nodes(experiment).chained("base")
    assert node.config["keep"] == [0.3]
    assert node.identity == node.digest


def test_a_first_look_in_fewer_steps_is_the_beginning_of_nothing(tmp_path: Path) -> None:
    """The base has 4 steps, the stage above it too: with 3 no draw goes on from a look, with 4 all do."""
    for steps, goes_on in ((3, False), (4, True), (None, True)):
        screening = {"samples": 48, "sampling_steps": steps}
        experiment = searched(tmp_path, screening=screening)
        whole, look = Nodes(experiment, trial=True), Nodes(experiment, trial=True, look=48)
        for name in ("base", "sr16"):
            one, other = whole.chained(name), look.chained(name)
            assert one.config["sampling"]["steps"] == 4
            assert other.config["sampling"]["steps"] == (steps or 4)
            assert other.config["count"] == 48
            assert one.context.get("earlier") == (other.key if goes_on else None)
            assert ("continued" in other.context) == goes_on
        assert "earlier" not in whole.oracle("sr16").context, "the oracle has no look"


def test_a_look_at_a_quick_base_goes_on_below_a_stage_that_does_not(tmp_path: Path) -> None:
    experiment = searched(tmp_path, screening={"samples": 48, "sampling_steps": 3})
    quick = with_settings(experiment, {"stages.base.sampling.steps": 2})
    whole, look = Nodes(quick, trial=True), Nodes(quick, trial=True, look=48)
    assert look.chained("base").config["sampling"]["steps"] == 2, "as many as there are"
    assert whole.chained("base").context["earlier"] == look.chained("base").key
    assert "earlier" not in whole.chained("sr16").context
    slow = Nodes(with_settings(quick, {"stages.base.sampling.steps": 4, "stages.sr16.sampling.steps": 2}), trial=True)
    assert "earlier" not in slow.chained("sr16").context, "what is below it was drawn in fewer steps"


def test_a_pipelined_set_of_samples_is_the_same_result_and_a_trial_pipelines_nothing(tmp_path: Path) -> None:
    experiment = searched(tmp_path)
    asked = with_settings(experiment, {"resources.pipelined_sampling": {"sr16": 1}})
    plain, pipelined = Nodes(experiment).kept_samples("cascade"), Nodes(asked).kept_samples("cascade")
    assert plain.digest == pipelined.digest
    assert plain.context["pipelined"] is False
    assert pipelined.context["pipelined"] == {"sr16": 1}
    assert Nodes(asked, trial=True).kept_samples("cascade").context["pipelined"] is False
