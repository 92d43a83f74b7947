"""Searches of how a stage is trained: what is proposed, shared, pruned, looked up, and what outlives a kill -9."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.commits import CommitLog
from pipeline.dag import Node, stored
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.budget import Ledger
from pipeline.search.proposals import drawn_of, with_drawn_lists
from pipeline.search.spec import SearchSpec
from pipeline.storage import Storage, open_storage
from pipeline.tuning.desk import Desk
from pipeline.tuning.log import TrialEntry, TrialLog
from pipeline.tuning.looks import METRIC, STEP, Looks
from pipeline.tuning.round import TrainingRound
from pipeline.tuning.run import _halving, _searcher, train_round, training_resources, without_room
from pipeline.tuning.trial import TrainingTrial
from pipeline.watching.weights import WATCHED

LEVELS, STEPS, RATE = (
    "stages.sr.augmentation.noise.levels",
    "stages.sr.sampling.steps",
    "stages.sr.training.learning_rate",
)
TEXT = """\
name: tiny
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 3, batch_size: 8}
    sampling: {steps: 2}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 12, batch_size: 8}
    sampling: {steps: 2}
evaluation: {samples: 16, reference: 60, block: 16, classifier: {steps: 3, channels: [4, 4]}}
search:
  algorithm: grid
  samples: 20
  space:
    stages.sr.augmentation.noise.levels: {values: [[0.0, 0.2], [0.0, 0.4]]}
    stages.sr.sampling.steps: {values: [2, 3]}
resources: {cpus_per_worker: 0.5, log_every: 1}
"""
RATES = f"search.space={{{RATE}: {{values: [0.001, 0.002, 0.003, 0.004]}}}}"  # four trainings
PRUNING = "search.pruning={first: 3, factor: 2, samples: 16, reference: 40}"


def load(folder: Path, *overrides: str) -> Experiment:
    (folder / "tiny.yaml").write_text(TEXT)
    return load_experiment(folder / "tiny.yaml", [f"store={folder / 'store'}", *overrides])


def round_of(experiment: Experiment) -> TrainingRound:
    assert experiment.search is not None
    return TrainingRound(experiment, experiment.search, "sr", tuple(experiment.search.space), {})


def desk_of(experiment: Experiment) -> Desk:
    trials, storage = round_of(experiment), open_storage(experiment.store)
    base_is_trained(experiment)
    ledger = Ledger(storage, trials.prefix, trials.search.budget, experiment.resources)
    return Desk(trials, trials.log(storage), ledger)


def base_is_trained(experiment: Experiment) -> None:
    """What all trials share is stored before they run; here it need not be more than known to be there."""
    is_done(Nodes(experiment, trial=True).train("base"), open_storage(experiment.store))


def is_done(node: Node, storage: Storage) -> None:
    """Store a node's result where there is none yet; nothing reads it."""
    if stored(node, storage) is None:
        commits = CommitLog(storage, node.key, owner="test", clock=time.time)
        commits.begin()
        name, _ = commits.new_folder("files")
        commits.commit(name, {"node": node.name, "summary": {}, "seconds": 1.0})


def settings_of(desk: Desk, key: str) -> dict[str, Any]:
    """What the running trial ``key`` sets."""
    return desk.running[key].proposal.settings


def pretend(desk: Desk, key: str, *, state: str = "finished", objective: float | None = 1.0, **changes: Any) -> None:
    """End a trial as if it had been run."""
    settings = settings_of(desk, key)
    point = {"settings": settings, "objective": objective, "seconds": 1.0, "cost_hours": 1.0, **changes}
    desk.log.end(key, state, point)  # type: ignore[arg-type]
    desk.ended(key)


def spec(**changes: Any) -> SearchSpec:
    space = {RATE: {"loguniform": [1e-4, 1e-1]}, LEVELS: {"values": [None, [0.0, 0.2], {"a": 1}]}}
    return SearchSpec.model_validate({"space": space, "trials": 12, **changes})


# Proposals


def test_a_drawn_list_is_the_same_again_distinct_and_begins_the_longer_one() -> None:
    paths = list(spec().space)
    short = drawn_of(spec(), paths)
    assert len(short) == len({json.dumps(settings) for settings in short}) == 12
    assert drawn_of(spec(trials=40), paths)[:12] == short
    assert drawn_of(spec(seed=2), paths) != short
    many = drawn_of(spec(trials=400), paths)
    below = sum(settings[RATE] < 10**-2.5 for settings in many) / 400  # the middle of the logarithms
    assert below == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(400))
    assert {json.dumps(settings[LEVELS]) for settings in many} == {"null", "[0.0, 0.2]", '{"a": 1}'}


def test_a_drawn_list_ends_with_the_space() -> None:
    space = {LEVELS: {"values": [None, [0.0, 0.2]]}}
    assert len(drawn_of(SearchSpec.model_validate({"space": space, "trials": 12}), [LEVELS])) == 2


# Which trial comes next


def test_settings_that_mean_the_same_are_one_trial(tmp_path: Path) -> None:
    space = "search.space={stages.sr.sampling.augmentation: {values: [truncated, non_truncated]}, " + (
        f"{RATE}: {{values: [0.001, 0.002]}}}}"
    )
    desk = desk_of(load(tmp_path, space))  # at level 0 both kinds are the finished image
    begun = []
    while (key := desk.next()) is not None:
        begun.append(settings_of(desk, key))
        pretend(desk, key)
    assert [settings[RATE] for settings in begun] == [0.001, 0.002]
    assert len(desk.entries()) == 2


def test_a_killed_driver_leaves_what_ended_and_resumes_what_had_begun(tmp_path: Path) -> None:
    experiment = load(tmp_path, RATES)
    killed = desk_of(experiment)
    first, second, third = killed.next(), killed.next(), killed.next()
    assert first
    assert second
    assert third
    pretend(killed, first)
    pretend(killed, second, state="pruned", objective=None)
    again = desk_of(experiment)
    assert again.next() == third
    fourth = again.next()
    assert fourth not in (None, first, second, third)
    assert again.next() is None
    assert {entry.key for entry in again.entries()} == {first, second}
    for key in (third, fourth):
        assert key
        pretend(again, key)
    last = desk_of(experiment)
    assert not last.has_more()
    assert {entry.key for entry in last.entries()} == {first, second, third, fourth}


def test_optuna_is_asked_for_the_remaining_number_alone(tmp_path: Path) -> None:
    space = f"search.space={{{RATE}: {{loguniform: [0.0001, 0.1]}}}}"
    experiment = load(tmp_path, space, "search.algorithm=optuna", "search.trials=3")
    killed = desk_of(experiment)
    for _ in range(2):
        key = killed.next()
        assert key
        pretend(killed, key)
    again = desk_of(experiment)
    key = again.next()
    assert key
    assert again.next() is None
    pretend(again, key)
    assert len(again.entries()) == 3
    more = desk_of(load(tmp_path, space, "search.algorithm=optuna", "search.trials=5"))
    assert [more.next() is not None for _ in range(3)] == [True, True, False]


def test_a_small_space_ends_before_the_number_of_trials(tmp_path: Path) -> None:
    desk = desk_of(load(tmp_path, "search.algorithm=optuna", "search.trials=50"))
    begun = 0
    while (key := desk.next()) is not None:
        begun += 1
        pretend(desk, key, objective=float(begun))
    assert begun == 4


def test_nothing_begins_once_the_budget_is_spent(tmp_path: Path) -> None:
    """What ended is looked up all the same, by the same command again too."""
    experiment = load(tmp_path, RATES, "search.budget.gpu_hours=1.5")
    desk, keys = desk_of(experiment), set()
    for _ in range(2):
        key = desk.next()
        assert key
        keys.add(key)
        pretend(desk, key)  # an hour each
    assert desk.next() is None
    assert desk.over
    assert desk.not_begun == 2
    again = desk_of(experiment)
    assert not again.has_more()
    assert {entry.key for entry in again.entries()} == {entry.key for entry in desk.entries()} == keys
    assert again.not_begun == 2
    assert desk_of(load(tmp_path, RATES, "search.budget.gpu_hours=2.5")).has_more()


def test_what_runs_is_reckoned_by_what_ended(tmp_path: Path) -> None:
    desk = desk_of(load(tmp_path, RATES, "search.budget.gpu_hours=2.5"))
    first, second = desk.next(), desk.next()
    assert first
    assert second
    pretend(desk, first)
    assert desk.next(), "one hour spent, one to come"
    assert desk.next() is None, "one hour spent, two to come"
    assert not desk.over, "they may come cheaper"
    pretend(desk, second, cost_hours=0.1)
    assert desk.next(), "0.55 hours on average"


def test_what_had_begun_is_finished_whatever_it_costs(tmp_path: Path) -> None:
    experiment = load(tmp_path, RATES, "search.budget.gpu_hours=0.5")
    killed = desk_of(experiment)
    first, second = killed.next(), killed.next()
    assert first
    assert second
    pretend(killed, first)
    again = desk_of(experiment)
    assert again.next() == second
    assert again.next() is None


def test_a_trial_whose_process_is_lost_is_charged_for_what_it_trained(tmp_path: Path) -> None:
    desk = desk_of(load(tmp_path))
    key = desk.next()
    assert key
    commits = CommitLog(desk.log.storage, "runs/one", owner="test", clock=time.time)
    desk.log.train(key, commits.prefix, 0.0)
    commits.take_over()
    name, _ = commits.new_folder("files")
    commits.commit(name, {"step": 3, "seconds": 1800.0})
    assert desk.ledger.gpu_hours == 0.5, "already while it runs"
    desk.ended(key, "its process was lost")
    (entry,) = desk.entries()
    assert entry.point is not None
    assert (entry.state, entry.point["error"]) == ("failed", "its process was lost")
    assert entry.point["cost_hours"] == 0.5


def test_what_failed_is_tried_once_more_when_all_others_have_begun(tmp_path: Path) -> None:
    desk = desk_of(load(tmp_path, RATES))
    keys = [desk.next() for _ in range(4)]
    assert desk.next() is None
    assert not desk.over, "what runs may fail"
    failed = str(keys[1])
    desk.ended(failed, "its process was lost")
    assert desk.next() == failed
    pretend(desk, failed)
    for key in (keys[0], keys[2]):
        pretend(desk, str(key))
    assert desk.next() is None
    desk.ended(str(keys[3]), "its process was lost")
    assert desk.next() == keys[3]
    desk.ended(str(keys[3]), "its process was lost")
    assert desk.next() is None, "twice is in vain"
    assert desk.over
    assert [entry.state for entry in desk.entries()] == ["finished", "finished", "finished", "failed"]


def test_what_failed_is_not_tried_again_before_it_is_over(tmp_path: Path) -> None:
    """Its end is in the journal before Tune hears of it: begun once more then, it would end twice."""
    desk = desk_of(load(tmp_path, RATES))
    keys = [str(desk.next()) for _ in range(4)]
    for training in desk.running[keys[1]].trainings:  # what comes after them failed
        is_done(training, desk.log.storage)
    desk.log.end(keys[1], "failed", {"settings": settings_of(desk, keys[1]), "cost_hours": 0.0})
    assert desk.next() is None
    desk.ended(keys[1])
    assert desk.next() == keys[1]


def test_a_trial_waits_while_another_is_at_its_training(tmp_path: Path) -> None:
    """Where it waits it holds neither CPU nor GPU; a trial with a training of its own goes first."""
    desk = desk_of(load(tmp_path))  # two ranges of levels, sampled in two ways each
    first, second = desk.next(), desk.next()
    assert first
    assert second
    assert [settings_of(desk, key)[STEPS] for key in (first, second)] == [2, 2]
    assert desk.next() is None
    assert not desk.over
    pretend(desk, second)
    third = desk.next()
    assert third
    assert settings_of(desk, third) == {LEVELS: [0.0, 0.4], STEPS: 3}
    pretend(desk, first)
    pretend(desk, third)
    fourth = desk.next()
    assert fourth
    pretend(desk, fourth)
    assert len(desk.entries()) == 4


def test_what_is_proposed_is_told_when_its_trial_ends_however_often_it_is_proposed(tmp_path: Path) -> None:
    desk = desk_of(load(tmp_path, "search.algorithm=optuna", "search.trials=50"))
    while desk.next() is not None or desk.running:  # as many as can run at once, then one of them ends
        while desk.next() is not None:
            pass
        pretend(desk, next(iter(desk.running)))
    assert desk._suggested is not None
    states = [trial.state.name for trial in desk._suggested._study.trials]
    assert len(desk.entries()) == 4
    assert "RUNNING" not in states


def test_levels_that_are_listed_for_the_stage_below_are_not_tried(tmp_path: Path) -> None:
    """The declared level stands in the widened section beside the searched ones; the round tries those it was given."""
    level = "stages.sr.sampling.level"
    space = f"search.space={{{LEVELS}: {{values: [[0.0, 0.3], [0.0, 0.4]]}}, {level}: {{values: [0.1, 0.2]}}}}"
    experiment = load(tmp_path, space)  # the declared level is 0
    declared, widened = experiment.search, with_drawn_lists(experiment)
    assert declared is not None
    assert widened.search is not None
    assert widened.search.space[level].values == (0.1, 0.2, 0.0)  # type: ignore[union-attr]
    trials = TrainingRound(widened, declared, "sr", (LEVELS, level), {})
    storage = open_storage(experiment.store)
    ledger = Ledger(storage, trials.prefix, declared.budget, experiment.resources)
    base_is_trained(experiment)
    desk, tried = Desk(trials, trials.log(storage), ledger), []
    while (key := desk.next()) is not None:
        tried.append(settings_of(desk, key)[level])
        pretend(desk, key)
    assert sorted(tried) == [0.1, 0.1, 0.2, 0.2]


def test_a_round_that_was_left_early_is_no_round(tmp_path: Path) -> None:
    """By whomever: Ray Tune ends without a word where it is told to."""
    desk = desk_of(load(tmp_path, RATES, "search.budget.gpu_hours=1.5"))
    key = desk.next()
    assert key
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the round at sr was left before its end"):
            desk.check_over()  # a trial is under way; then others have not begun
        if desk.running:
            pretend(desk, key)
    second = desk.next()
    assert second
    assert desk.next() is None, "two hours spent"
    pretend(desk, second)
    with pytest.raises(RuntimeError, match="before its end"):
        desk.check_over()  # it might have failed, and begun again
    assert desk.next() is None
    desk.check_over()


def test_a_proposal_that_means_an_earlier_trial_outside_the_space_counts_as_that_trial(tmp_path: Path) -> None:
    kind = "stages.sr.sampling.augmentation"  # at level 0 both are the finished image
    trials = ("search.algorithm=optuna", "search.trials=3")
    before, desk = (
        desk_of(load(tmp_path, f"search.space={{{kind}: {{values: [{one}]}}, {RATE}: {{values: [0.001]}}}}", *trials))
        for one in ("truncated", "non_truncated")
    )
    key = before.next()
    assert key
    pretend(before, key)
    assert desk.entries() == []
    assert desk.next() is None
    assert [entry.key for entry in desk.entries()] == [key]


def test_no_more_are_told_not_to_have_begun_than_the_space_has(tmp_path: Path) -> None:
    desk = desk_of(load(tmp_path, "search.algorithm=optuna", "search.trials=50", "search.budget.gpu_hours=0.5"))
    key = desk.next()
    assert key
    pretend(desk, key)
    assert desk.next() is None
    assert desk.not_begun == 3


def test_other_pruning_or_other_data_is_another_search(tmp_path: Path) -> None:
    plain, pruned, other = load(tmp_path), load(tmp_path, PRUNING), load(tmp_path, "data.train=90")
    storage = open_storage(plain.store)
    assert round_of(plain).log(storage).prefix == round_of(pruned).log(storage).prefix
    assert round_of(plain).identity != round_of(pruned).identity
    assert round_of(plain).log(storage).prefix != round_of(other).log(storage).prefix
    longer = load(tmp_path, "search.trials=99", "search.concurrency=7", "search.budget.hours=3")
    assert round_of(plain).identity == round_of(longer).identity


# Pruning


def test_rungs_lie_below_the_last_step(tmp_path: Path) -> None:
    assert round_of(load(tmp_path, PRUNING)).rungs(12) == (3, 6)
    assert round_of(load(tmp_path, PRUNING)).rungs(13) == (3, 6, 12)
    assert round_of(load(tmp_path, PRUNING)).rungs(3) == ()
    assert round_of(load(tmp_path)).rungs(12) == ()


def test_halving_knows_the_trials_of_earlier_commands_and_marks_what_it_would_stop(tmp_path: Path) -> None:
    experiment = load(tmp_path, PRUNING, RATES)
    before = desk_of(experiment)
    for score in (1.0, 2.0):
        key = before.next()
        assert key
        before.log.look(key, 3, score)
        pretend(before, key)
    desk = desk_of(experiment)
    good, bad = desk.next(), desk.next()
    assert good
    assert bad
    scheduler = _halving(desk.round, desk)
    for key, score in ((bad, 1.9), (good, 1.2)):
        trial: Any = SimpleNamespace(trial_id=f"tune-{key}", config={"trial": key})
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        assert scheduler.on_trial_result(None, trial, {STEP: 3, METRIC: score}) == "CONTINUE"  # nothing is killed
        scheduler.on_trial_complete(None, trial, {"objective": 1.0})
    # Of 1.0 and 2.0 the better half ends at 1.5, of 1.0, 1.9 and 2.0 at 1.9; the first that is seen would go on.
    assert (desk.log.is_stopped(good), desk.log.is_stopped(bad)) == (False, True)


def test_tune_can_store_what_it_is_given(tmp_path: Path) -> None:
    """It does so before the first trial, and again and again while they run."""
    from ray import cloudpickle

    desk = desk_of(load(tmp_path, PRUNING))
    for given in (_searcher(desk, lambda done, total: None), _halving(desk.round, desk)):
        assert type(cloudpickle.loads(cloudpickle.dumps(given))).__name__ == type(given).__name__


class Seen(Looks):
    """Looks whose scores are the steps they are of."""

    def _score(self, step: int, weights: Path) -> float | None:
        return float(step)


def test_a_rung_that_an_earlier_command_went_by_without_weights_ends_no_looking(tmp_path: Path) -> None:
    """The run was trained until step 4 before there was pruning; from there on each rung is looked at."""
    desk = desk_of(load(tmp_path, PRUNING, "stages.sr.training.steps=20"))
    key = desk.next()
    assert key
    changed = desk.round.changed(settings_of(desk, key))
    node = Nodes(changed, trial=True).train("sr")
    commits = CommitLog(desk.log.storage, node.context["run"], owner="test", clock=time.time)
    commits.take_over()

    def commit(info: dict[str, Any]) -> None:
        name, folder = commits.new_folder("files")
        (folder / "ema.safetensors").write_bytes(b"")
        commits.commit(name, info)

    def train() -> None:
        for step in (6, 12):
            commit({WATCHED: step, "kept": f"watched {step}"})

    commit({"step": 4, "seconds": 1.0})
    reported: list[int] = []
    looks = Seen(changed, "sr", node, (3, 6, 12), desk.log, key, lambda metrics: reported.append(metrics[STEP]))
    assert not looks.during(train)
    assert reported == [6, 12]


def test_rungs_of_a_training_that_begins_anew_below_the_longest_come_again(tmp_path: Path) -> None:
    """The run was trained until step 40 without pruning, and what it has on the way there was deleted."""
    desk = desk_of(load(tmp_path, PRUNING, "stages.sr.training.steps=20"))
    key = desk.next()
    assert key
    changed = desk.round.changed(settings_of(desk, key))
    node = Nodes(changed, trial=True).train("sr")
    commits = CommitLog(desk.log.storage, node.context["run"], owner="test", clock=time.time)
    commits.take_over()

    def commit(info: dict[str, Any]) -> None:
        name, folder = commits.new_folder("files")
        (folder / "ema.safetensors").write_bytes(b"")
        commits.commit(name, info)

    commit({"step": 40, "seconds": 1.0, "final": True})
    reported: list[int] = []
    looks = Seen(changed, "sr", node, (3,), desk.log, key, lambda metrics: reported.append(metrics[STEP]))
    assert not looks.during(lambda: commit({WATCHED: 3, "kept": "watched 3"}))
    assert looks.passed == -1
    assert reported == [3]


def test_looks_that_would_wait_for_trainings_to_end_are_told_of(tmp_path: Path) -> None:
    workers = ("resources.workers=4", "resources.gpus_per_worker=1", "resources.gpus_per_sampling_worker=1")
    trials = round_of(load(tmp_path, PRUNING, "search.concurrency=2", *workers))
    assert without_room(trials, 8.0) == (
        "search.pruning: 2 trainings at once hold 8 GPUs of 8, and a look, which needs 1, waits until one of them "
        "ends; lower search.concurrency"
    )
    assert without_room(trials, 9.0) is None
    assert without_room(round_of(load(tmp_path, "search.concurrency=2", *workers)), 8.0) is None
    assert without_room(round_of(load(tmp_path, PRUNING)), 0.0) is None


def test_a_trial_of_one_worker_holds_what_it_needs_and_others_leave_it_to_their_workers(tmp_path: Path) -> None:
    share = load(tmp_path, "resources.gpus_per_worker=0.25")
    assert training_resources(share) == {"CPU": 0.5, "GPU": 0.25}
    assert training_resources(load(tmp_path, "resources.workers=2", "resources.gpus_per_worker=1")) == {"CPU": 0.01}


# Trials that run: in this process, as they do under Ray Tune


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store has what all trials share."""
    folder = tmp_path_factory.mktemp("search")
    experiment = load(folder, PRUNING)
    storage = open_storage(experiment.store)
    shared = round_of(experiment).shared(storage)
    base = next(node for node in shared if node.name == "train/base")
    execute([replace(base, context={**base.context, "in_place": True})], storage, Silence(), use_ray=False)
    execute(shared, storage, Silence(), use_ray=False)
    return folder


def run(desk: Desk, key: str, report: Any = lambda metrics: None) -> dict[str, Any]:
    entry = desk.log.get(key)
    assert entry is not None
    point = TrainingTrial(desk.round, entry, desk.log, report).run()
    desk.ended(key)
    return point


def trainings(desk: Desk, levels: list[float]) -> int:
    """How often a training with these levels was taken up."""
    return sum(entry.kind == "takeover" for entry in commits_of(desk, levels).entries())


def commits_of(desk: Desk, levels: list[float]) -> CommitLog:
    node = Nodes(desk.round.changed({LEVELS: levels}), trial=True).train("sr")
    return CommitLog(desk.log.storage, node.context["run"], owner="test", clock=time.time)


def test_trials_prune_resume_and_share_their_weights(ready: Path) -> None:
    desk = desk_of(load(ready, PRUNING, "search.pruning.factor=20", "stages.sr.training.steps=100"))
    by_settings = {}

    def stop_early(metrics: Mapping[str, Any]) -> None:
        if metrics[STEP] == 3 and settings_of(desk, key)[LEVELS] == [0.0, 0.2]:
            desk.log.stop(key)

    while (key := desk.next()) is not None:
        settings = settings_of(desk, key)
        by_settings[settings[LEVELS][1], settings[STEPS]] = run(desk, key, stop_early)
    pruned, finished, reused = by_settings[0.2, 2], by_settings[0.4, 2], by_settings[0.4, 3]
    assert [point["status"] for point in (pruned, finished, reused)] == ["pruned", "finished", "finished"]
    assert [step for step, _ in pruned["rungs"]] == [3]
    assert [step for step, _ in finished["rungs"]] == [3, 60]
    assert pruned["objective"] is None
    assert pruned["error"] is None
    assert math.isfinite(finished["objective"])
    # What trains starts within its time, and the same training with other sampling is there already.
    assert 0.0 < finished["start_seconds"] <= finished["seconds"]
    for point in (finished, reused):
        assert point["cost_hours"] == pytest.approx(
            (point.get("training_seconds", 0.0) + point["scoring_seconds"]) / 3600, rel=1e-6
        )
    assert (reused["start_seconds"], reused.get("training_seconds"), reused["rungs"]) == (None, None, [])
    assert trainings(desk, [0.0, 0.4]) == 1
    assert not any(entry.info.get("final") for entry in commits_of(desk, [0.0, 0.2]).entries())


def test_two_trials_at_once_train_the_same_once(ready: Path) -> None:
    space = f"search.space={{{LEVELS}: {{values: [[0.0, 0.3]]}}, {STEPS}: {{values: [2, 3]}}}}"
    desk = desk_of(load(ready, space, "stages.sr.training.steps=30"))
    points: list[dict[str, Any]] = []
    threads = []
    for steps in (2, 3):  # the desk of one driver would have one wait; these are of two
        settings = {LEVELS: [0.0, 0.3], STEPS: steps}
        entry = desk.log.begin(desk.round.key(settings), desk.round.identity, settings, time.time())
        trial = TrainingTrial(desk.round, entry, desk.log, lambda metrics: None)
        threads.append(threading.Thread(target=lambda trial=trial: points.append(trial.run())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [point["error"] for point in points] == [None, None]
    node = Nodes(desk.round.changed({LEVELS: [0.0, 0.3]}), trial=True).train("sr")
    log = CommitLog(desk.log.storage, node.context["run"], owner="test", clock=time.time)
    assert sum(entry.kind == "takeover" for entry in log.entries()) == 1
    assert sorted(point.get("training_seconds", 0.0) > 0 for point in points) == [False, True]


def test_a_trial_that_cannot_be_is_a_failed_point(ready: Path) -> None:
    trials = round_of(load(ready))
    log = TrialLog(open_storage(trials.experiment.store), "searches/impossible")
    settings = {"stages.sr.augmentation": None, "stages.sr.sampling.level": 0.3}
    entry = log.begin("a", "r", settings, time.time())
    point = TrainingTrial(trials, entry, log, lambda metrics: None).run()
    assert point["status"] == "failed"
    assert point["settings"] == settings
    assert "sampling.level" in point["error"]
    assert len(point["error"].splitlines()) == 1
    assert "pydantic" not in point["error"]
    assert log.known(entry.key).ended, "another attempt is in vain"


# On Ray


@pytest.mark.ray
def test_tune_waits_for_trainings_of_other_trials_and_tries_again_what_failed(ready: Path, ray_cluster: None) -> None:
    steps = "stages.sr.training.steps=14"  # trainings of its own
    trials = round_of(load(ready, steps, "search.concurrency=2", "resources.cpus_per_worker=0.2"))
    storage = open_storage(trials.experiment.store)
    broken = trials.changed({LEVELS: [0.0, 0.4], STEPS: 3})
    in_the_way = storage.path(Nodes(broken, trial=True).chained("sr").key)
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("in the way")
    ledger = Ledger(storage, trials.prefix, trials.search.budget, trials.experiment.resources)
    points, not_begun = train_round(trials, ledger, lambda *_: None, storage)
    assert not_begun == 0
    ended = {(point["settings"][LEVELS][1], point["settings"][STEPS]): point["status"] for point in points}
    assert ended == {(0.2, 2): "finished", (0.2, 3): "finished", (0.4, 2): "finished", (0.4, 3): "failed"}
    entries = [entry for entry in trials.log(storage).entries() if entry.round == trials.identity]
    assert sorted(entry.attempts for entry in entries) == [1, 1, 1, 2]
    assert sum(point.get("waiting_seconds", 0.0) for point in points) < 0.5, "no trial held what it needs for waiting"
    assert ledger.gpu_hours == pytest.approx(sum(point["cost_hours"] for point in points))
    assert ledger.gpu_hours > 0.0


DRIVER = """\
import json, sys
from pathlib import Path
from pipeline.cluster import ray_cluster
from pipeline.experiment import load_experiment
from pipeline.search.budget import Ledger
from pipeline.storage import open_storage
from pipeline.tuning.round import TrainingRound
from pipeline.tuning.run import train_round

experiment = load_experiment(sys.argv[1], sys.argv[2:])
search, storage = experiment.search, open_storage(experiment.store)
trials = TrainingRound(experiment, search, "sr", tuple(search.space), {})
ledger = Ledger(storage, trials.prefix, search.budget, experiment.resources)
with ray_cluster(None), ledger.kept():
    points, _ = train_round(trials, ledger, lambda *_: None, storage)
Path(experiment.store, "points.json").write_text(json.dumps(points))
"""


def processes_of(session: int) -> list[int]:
    """Processes of a session that is ours."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _session(name) == session]


def _session(process: str) -> int | None:
    try:
        return os.getsid(int(process))
    except OSError:
        return None


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.ray
def test_kill_9_of_driver_and_cluster_runs_no_ended_trial_again(ready: Path, record_figure: Any) -> None:
    """The second trial is killed in the middle of its training, with everything; the same command then goes on."""
    shutil.copytree(ready / "store", ready / "calm")  # what all trials share
    overrides = [f"store={ready / 'store'}", PRUNING, "search.concurrency=1", "resources.checkpoint_seconds=0.01"]
    overrides += [f"search.space={{{LEVELS}: {{values: [[0.0, 0.25], [0.0, 0.35]]}}}}", "stages.sr.training.steps=150"]
    experiment = load(ready, *overrides)
    trials = round_of(experiment)
    log = trials.log(open_storage(experiment.store))
    (ready / "driver.py").write_text(DRIVER)

    def start(store: str = "store") -> subprocess.Popen[bytes]:
        others = [f"store={ready / store}", *overrides[1:]]
        command = [sys.executable, str(ready / "driver.py"), str(ready / "tiny.yaml"), *others]
        with (ready / "driver.log").open("ab") as told:
            return subprocess.Popen(command, stdout=told, stderr=told, start_new_session=True)

    driver = start()
    desk = Desk(trials, log, Ledger(log.storage, log.prefix, trials.search.budget, experiment.resources))
    try:
        deadline = time.monotonic() + 400
        while True:
            assert driver.poll() is None, (ready / "driver.log").read_text()
            assert time.monotonic() < deadline
            entries = [entry for entry in log.entries() if entry.round == trials.identity]
            begun = [entry for entry in entries if entry.state == "begun"]
            if len(entries) == 2 and begun and trained(desk, begun[0]) >= 5:
                break
            time.sleep(0.05)
    finally:
        for process in processes_of(driver.pid):
            os.kill(process, signal.SIGKILL)
        driver.wait()
    before = {entry.key: log.storage.read(f"{log.prefix}/trials/{entry.key}.json") for entry in entries if entry.ended}
    reached = trained(desk, begun[0])
    assert len(before) == 1
    again = start()
    assert again.wait(timeout=400) == 0, (ready / "driver.log").read_text()
    for key, data in before.items():
        assert log.storage.read(f"{log.prefix}/trials/{key}.json") == data  # not touched
    points = json.loads((ready / "store" / "points.json").read_text())
    assert len(points) == 2
    assert {point["status"] for point in points} <= {"finished", "pruned"}
    resumed = commits_of(desk, dict(begun[0].settings)[LEVELS]).entries()
    takeovers = [entry.number for entry in resumed if entry.kind == "takeover"]
    assert len(takeovers) == 2
    after = [entry.info["step"] for entry in resumed[takeovers[1] :] if "step" in entry.info]
    assert min(after) > reached - 2  # it went on from its commits
    calm = start("calm")
    assert calm.wait(timeout=400) == 0, (ready / "driver.log").read_text()
    undisturbed = json.loads((ready / "calm" / "points.json").read_text())
    came_out = [[(one["settings"], one["status"], one["objective"]) for one in each] for each in (points, undisturbed)]
    assert came_out[0] == came_out[1]
    record_figure(
        3,
        "driver and cluster killed with SIGKILL in the middle of a search that trains",
        f"0 of {len(before)} ended trials run again, the other goes on after step {reached}; both with the settings, "
        "ends and scores of an undisturbed search",
    )


def trained(desk: Desk, entry: TrialEntry) -> int:
    """Steps that the training of a trial has committed."""
    found = commits_of(desk, entry.settings[LEVELS]).entries()
    return max((commit.info.get("step", 0) for commit in found), default=0)
