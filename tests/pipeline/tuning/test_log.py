"""The journal of trials, claims on a training, budgets: what a command that is killed leaves to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.commits import CommitLog
from pipeline.experiment_spec import ResourcesSpec
from pipeline.storage import open_storage
from pipeline.tuning.costs import (
    cost_of,
    hours_of,
    leave_trainings,
    scoring_hours,
    start_seconds,
    time_use,
    trained_seconds,
)
from pipeline.tuning.log import TrialLog

PATH = "stages.sr.training.learning_rate"


@pytest.fixture
def log(tmp_path: Path) -> TrialLog:
    return TrialLog(open_storage(tmp_path), "searches/one")


def point(**changes: Any) -> dict[str, Any]:
    return {"settings": {PATH: 0.1}, "objective": 3.0, "seconds": 10.0, "cost_hours": 0.5, **changes}


def test_a_trial_reads_as_it_was_written(log: TrialLog) -> None:
    log.begin("a", "round", {PATH: 0.1}, 5.0)
    log.look("a", 30, 2.5)
    log.look("a", 10, 3.5)
    log.end("a", "finished", point())
    again = TrialLog(open_storage(log.storage.root), log.prefix).get("a")
    assert again is not None
    assert (again.state, again.settings, again.rungs) == ("finished", {PATH: 0.1}, ((10, 3.5), (30, 2.5)))
    assert (again.objective, again.ended, again.asked) == (3.0, True, 5.0)


def test_a_trial_without_scores_has_no_objective(log: TrialLog) -> None:
    assert log.begin("a", "round", {}, 0.0).objective is None
    log.end("a", "pruned", point(objective=None))
    (entry,) = log.entries()
    assert entry.objective is None


def test_a_failure_has_one_more_attempt_and_being_cut_off_costs_none(log: TrialLog) -> None:
    log.begin("a", "round", {}, 0.0)
    log.look("a", 10, 1.0)
    assert log.begin("a", "round", {}, 1.0).attempts == 1  # its driver was killed
    log.end("a", "failed", point(error="a lost node"))
    (entry,) = log.entries()
    assert not entry.ended
    again = log.begin("a", "round", {}, 2.0)
    assert (again.attempts, again.rungs) == (2, ((10, 1.0),))
    log.end("a", "failed", point(error="a lost node"))
    (entry,) = log.entries()
    assert entry.ended
    with pytest.raises(AssertionError):
        log.begin("a", "round", {}, 3.0)


def test_a_failure_that_would_come_again_has_no_more_attempts(log: TrialLog) -> None:
    log.begin("a", "round", {}, 0.0)
    log.end("a", "failed", point(error="levels without augmentation"), in_vain=True)
    assert log.known("a").ended


def test_what_a_run_had_been_trained_is_noted_once(log: TrialLog) -> None:
    log.begin("a", "round", {}, 0.0)
    assert log.train("a", "runs/sr", 7.0) == 7.0
    assert log.train("a", "runs/sr", 50.0) == 7.0  # after a resumption: those before the trial are not its own
    assert log.train("a", "runs/base", 0.0) == 0.0
    log.leave("a", "runs/sr", 0.5)
    assert log.train("a", "runs/sr", 90.0) == 90.0  # what others trained of it meanwhile is not its own either
    assert log.known("a").trained_hours == 0.5


def test_a_mark_calls_one_trial_off(log: TrialLog) -> None:
    log.stop("a")
    assert log.is_stopped("a")
    assert not log.is_stopped("b")
    log.clear_stop("a")
    assert not log.is_stopped("a")
    assert log.entries() == []


def test_training_seconds_are_those_of_the_log_over_all_attempts(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    commits = CommitLog(storage, "runs/sr", owner="test", clock=lambda: 100.0)
    assert trained_seconds(storage, "runs/sr") == 0.0
    commits.take_over()
    infos = [{"step": 1, "seconds": 4.0, "start_seconds": 9.0}, {"averages": 2}, {"step": 3, "seconds": 6.5}]
    for info in infos:
        name, _ = commits.new_folder("files")
        commits.commit(name, info)
    assert trained_seconds(storage, "runs/sr") == 6.5
    assert start_seconds(storage, "runs/sr", since=99.0) == 9.0
    assert start_seconds(storage, "runs/sr", since=101.0) is None


@pytest.mark.parametrize(
    ("steps", "seconds", "spent"),
    [
        ((2, 4, 6, 0, 1, 2, 3), (20.0, 40.0, 60.0, 0.0, 10.0, 20.0, 30.0), 90.0),  # those of 2 were deleted: anew
        ((2, 4, 6, 0, 5), (20.0, 40.0, 60.0, 0.0, 50.0), 70.0),  # from 4, one of the two newest
        ((3, 0, 6, 0, 9, 0, 4), (30.0, 0.0, 60.0, 0.0, 90.0, 0.0, 40.0), 100.0),  # from 3, which was the last asked for
        ((2, 0, 4), (20.0, 0.0, 45.0), 45.0),  # what was not committed costs nothing
    ],
)
def test_what_is_trained_anew_below_the_longest_costs_again(
    steps: tuple[int, ...], seconds: tuple[float, ...], spent: float, tmp_path: Path
) -> None:
    """A step of 0 is another owner, who goes on or begins anew; the last step before one was the last asked for."""
    storage = open_storage(tmp_path)
    commits = CommitLog(storage, "runs/sr", owner="test", clock=lambda: 100.0)
    commits.take_over()
    for step, after, passed in zip(steps, (*steps[1:], 0), seconds, strict=True):
        if step == 0:
            commits.take_over()
            continue
        name, _ = commits.new_folder("files")
        commits.commit(name, {"step": step, "seconds": passed, "final": after == 0})
    assert trained_seconds(storage, "runs/sr") == spent


def test_hours_are_those_of_the_share_of_a_gpu_and_of_a_cpu_where_there_is_none() -> None:
    assert hours_of(7200.0, ResourcesSpec()) == 2.0
    assert hours_of(7200.0, ResourcesSpec(workers=3, gpus_per_worker=1.0)) == 6.0
    assert hours_of(7200.0, ResourcesSpec(gpus_per_worker=0.25)) == 0.5
    assert scoring_hours(7200.0, ResourcesSpec(gpus_per_worker=0.25)) == 0.5, "in the process of the training"
    assert scoring_hours(7200.0, ResourcesSpec(workers=3, gpus_per_sampling_worker=0.5)) == 1.0
    assert scoring_hours(7200.0, ResourcesSpec()) == 2.0


def test_a_trial_costs_what_its_runs_gained_since_it_came_to_them_and_its_scores(log: TrialLog) -> None:
    trained(log, "runs/sr", 3600.0)
    log.begin("a", "round", {}, 0.0)
    log.train("a", "runs/sr", 3600.0)
    trained(log, "runs/sr", 3600.0 + 1800.0)
    log.spend("a", 0.125)
    log.spend("a", 0.125)
    (entry,) = log.entries()
    assert cost_of(log.storage, entry, ResourcesSpec()) == 0.75
    assert cost_of(log.storage, entry, ResourcesSpec(workers=2)) == 1.25
    log.end("a", "failed", point(cost_hours=0.75))
    again = log.begin("a", "round", {}, 1.0)
    assert cost_of(log.storage, again, ResourcesSpec()) == 0.75, "what an attempt that failed cost is not forgotten"


def test_what_others_train_of_a_run_that_a_trial_has_left_is_not_its_own(log: TrialLog) -> None:
    log.begin("a", "round", {}, 0.0)
    log.train("a", "runs/sr", 0.0)
    trained(log, "runs/sr", 3600.0)
    leave_trainings(log, "a", ResourcesSpec())
    log.end("a", "failed", point(cost_hours=1.0))
    trained(log, "runs/sr", 3 * 3600.0)  # by a trial that differs in how it is sampled
    again = log.begin("a", "round", {}, 1.0)
    assert cost_of(log.storage, again, ResourcesSpec()) == 1.0
    log.train("a", "runs/sr", trained_seconds(log.storage, "runs/sr"))
    assert cost_of(log.storage, log.known("a"), ResourcesSpec()) == 1.0


def trained(log: TrialLog, run: str, seconds: float) -> None:
    """Commit a checkpoint of ``run`` after so many seconds of training."""
    commits = CommitLog(log.storage, run, owner="test", clock=lambda: 100.0)
    commits.take_over()
    name, _ = commits.new_folder("files")
    commits.commit(name, {"step": len(commits.entries()), "seconds": seconds})


def test_time_is_told_by_what_it_was_spent_on() -> None:
    trained = point(seconds=20.0, start_seconds=4.0, training_seconds=10.0, scoring_seconds=3.0, look_seconds=2.0)
    waited = point(seconds=10.0, start_seconds=None, waiting_seconds=5.0, scoring_seconds=2.0)
    found = time_use([trained, waited])
    assert (found["seconds"], found["other_seconds"]) == (30.0, 30.0 - 4.0 - 10.0 - 5.0 - 5.0)
    assert found["busy_share"] == pytest.approx(15.0 / 30.0)
    assert (found["trained"], found["start_each"], found["start_most"]) == (1, 4.0, 4.0)
    nothing = time_use([])
    assert nothing["busy_share"] is None
    assert nothing["start_each"] is None
