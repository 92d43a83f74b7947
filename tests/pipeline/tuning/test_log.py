"""The journal of trials, claims on a training, budgets: what a command that is killed leaves to the next."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.commits import CommitLog
from pipeline.experiment_spec import ResourcesSpec
from pipeline.search.spec import BudgetSpec
from pipeline.storage import open_storage
from pipeline.tuning.claims import claimed
from pipeline.tuning.costs import Clock, hours_of, is_spent, start_seconds, time_use, trained_seconds
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


def test_a_trial_without_scores_has_the_worst_objective(log: TrialLog) -> None:
    assert log.begin("a", "round", {}, 0.0).objective == math.inf
    log.end("a", "pruned", point(objective=math.inf))
    (entry,) = log.entries()
    assert entry.objective == math.inf


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


def test_what_a_run_had_been_trained_is_noted_once(log: TrialLog) -> None:
    log.begin("a", "round", {}, 0.0)
    assert log.train("a", "runs/sr", 7.0) == 7.0
    assert log.train("a", "runs/sr", 50.0) == 7.0  # after a resumption: those before the trial are not its own
    assert log.train("a", "runs/base", 0.0) == 0.0


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


def test_hours_are_those_of_the_share_of_a_gpu_and_of_a_cpu_where_there_is_none() -> None:
    assert hours_of(7200.0, ResourcesSpec()) == 2.0
    assert hours_of(7200.0, ResourcesSpec(workers=3, gpus_per_worker=1.0)) == 6.0
    assert hours_of(7200.0, ResourcesSpec(gpus_per_worker=0.25)) == 0.5


def test_no_trial_begins_once_the_budget_is_spent(log: TrialLog) -> None:
    clock = Clock(log.storage, log.prefix)
    log.begin("a", "round", {}, 0.0)
    log.end("a", "finished", point(cost_hours=0.4))
    assert not is_spent(BudgetSpec(), log.entries(), clock)
    assert not is_spent(BudgetSpec(gpu_hours=0.5), log.entries(), clock)
    log.begin("b", "another round", {}, 0.0)
    assert not is_spent(BudgetSpec(gpu_hours=0.5), log.entries(), clock)
    log.end("b", "pruned", point(cost_hours=0.1))
    assert is_spent(BudgetSpec(gpu_hours=0.5), log.entries(), clock)


def test_hours_by_the_clock_go_on_where_a_killed_command_left_them(log: TrialLog) -> None:
    killed = Clock(log.storage, log.prefix, started=time.monotonic() - 1800.0)
    killed.tick()
    again = Clock(log.storage, log.prefix, started=time.monotonic() - 900.0)
    assert again.hours() == pytest.approx(0.75, abs=0.01)
    again.tick()
    assert again.hours() == pytest.approx(0.75, abs=0.01)  # its own time once
    assert is_spent(BudgetSpec(hours=0.7), [], again)
    assert not is_spent(BudgetSpec(hours=0.8), [], again)


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


def test_a_claim_is_waited_for(tmp_path: Path) -> None:
    storage, order = open_storage(tmp_path), []

    def second() -> None:
        with claimed(storage, "training") as waited:
            order.append(("second", waited > 0.5))

    thread = threading.Thread(target=second)
    with claimed(storage, "training") as waited:
        assert waited < 0.5
        thread.start()
        time.sleep(1.0)
        with claimed(storage, "another training"):
            order.append(("first", True))
    thread.join()
    assert order == [("first", True), ("second", True)]


def test_the_dead_hold_no_claim(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pipeline.storage import open_storage\n"
        "from pipeline.tuning.claims import claimed\n"
        "with claimed(open_storage(sys.argv[1]), 'training'):\n"
        "    print('mine', flush=True)\n"
        "    time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline().strip() == "mine"
    threading.Timer(1.0, owner.send_signal, [signal.SIGKILL]).start()
    with claimed(open_storage(tmp_path), "training") as waited:
        assert 0.5 < waited < 60.0
    assert owner.wait() == -signal.SIGKILL
