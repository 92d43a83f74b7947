"""The ledger of a search: one for rounds that draw and rounds that train, over all commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment, ResourcesSpec
from pipeline.search.budget import Ledger, prefix_of
from pipeline.search.spec import BudgetSpec
from pipeline.storage import open_storage
from pipeline.tuning.log import TrialLog

PREFIX = "searches/one"


def ledger_of(folder: Path, *, hours_ago: float = 0.0, resources: ResourcesSpec | None = None, **limits: Any) -> Ledger:
    """The ledger of a command that began so long ago."""
    started = time.monotonic() - 3600.0 * hours_ago
    spec, where = BudgetSpec(**limits), resources or ResourcesSpec()
    return Ledger(open_storage(folder), PREFIX, spec, where, started=started)


def ended_trial(folder: Path, key: str, hours: float) -> None:
    log = TrialLog(open_storage(folder), PREFIX)
    log.begin(key, "round", {}, 0.0)
    log.end(key, "pruned", {"settings": {}, "objective": None, "cost_hours": hours})


def test_without_limits_nothing_is_ever_spent(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, hours_ago=1000.0)
    ledger.charge(1e9)
    assert not ledger.is_spent()


def test_drawing_and_training_are_one_budget(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, gpu_hours=1.0)
    ended_trial(tmp_path, "a", 0.4)
    ledger.charge(1800.0)
    assert ledger.gpu_hours == pytest.approx(0.9)
    assert not ledger.is_spent()
    assert ledger.is_spent(reserved=0.2), "what runs will take it"
    ended_trial(tmp_path, "b", 0.2)
    assert ledger.is_spent()


def test_drawing_is_charged_by_the_share_of_a_gpu(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, resources=ResourcesSpec(gpus_per_sampling_worker=0.25))
    ledger.charge(7200.0)
    assert ledger.gpu_hours == 0.5


def test_the_next_command_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    first = ledger_of(tmp_path, hours_ago=0.5)
    with first.kept():
        first.charge(3600.0)
    again = ledger_of(tmp_path, hours_ago=0.25, hours=0.7, gpu_hours=2.0)
    assert again.hours == pytest.approx(0.75, abs=0.01)
    assert again.is_spent(), "of the clock"
    assert again.gpu_hours == pytest.approx(1.0)
    again.write()
    assert again.hours == pytest.approx(0.75, abs=0.01), "its own time once"
    assert again.summary() == {"hours": pytest.approx(0.75, abs=0.01), "gpu_hours": pytest.approx(1.0)}
    assert not ledger_of(tmp_path, hours=0.8, gpu_hours=1.1).is_spent()


def test_the_clock_is_noted_while_the_command_waits_and_a_kill_loses_seconds_alone(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pipeline.experiment_spec import ResourcesSpec\n"
        "from pipeline.search import budget\n"
        "from pipeline.search.spec import BudgetSpec\n"
        "from pipeline.storage import open_storage\n"
        "budget.WRITE_SECONDS = 0.1\n"
        f"ledger = budget.Ledger(open_storage(sys.argv[1]), '{PREFIX}', BudgetSpec(), ResourcesSpec())\n"
        "with ledger.kept():\n"
        "    ledger.charge(36.0)\n"
        "    time.sleep(600)\n"
    )
    command = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    folder, deadline = tmp_path / PREFIX / "spent", time.monotonic() + 120
    try:
        while not [path for path in folder.glob("*.json") if json.loads(path.read_text())["hours"] > 0.5 / 3600]:
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        command.send_signal(signal.SIGKILL)
        command.wait()
    found = ledger_of(tmp_path)
    assert found.hours > 0.5 / 3600
    assert found.gpu_hours == pytest.approx(0.01)


def tiny(folder: Path, **search: Any) -> Experiment:
    return swept_experiment(folder, 2, samples=48, base_steps=2, channels=8, block=16, search=search)


def prefix(experiment: Experiment) -> str:
    assert experiment.search is not None
    return prefix_of(experiment, experiment.search)


def test_more_trials_or_another_space_are_the_same_search_and_other_samples_are_another(tmp_path: Path) -> None:
    ranges = {"stages.sr16.sampling.level": {"uniform": [0.0, 0.4]}}
    one = tiny(tmp_path, algorithm="drawn", trials=3, space=ranges)
    assert prefix(tiny(tmp_path, algorithm="drawn", trials=9, space=ranges, budget={"hours": 2})) == prefix(one)
    assert prefix(tiny(tmp_path, algorithm="optuna", space=ranges)) == prefix(one)
    assert prefix(tiny(tmp_path, seed=9, algorithm="drawn", space=ranges)) != prefix(one)
    assert prefix(with_settings(one, {"stages.sr16.training.learning_rate": 0.5})) != prefix(one)


def test_more_stages_to_try_are_the_same_search_and_another_name_is_another(tmp_path: Path) -> None:
    """So a stage that is searched later finds what was spent, and cells of an ablation have budgets of their own."""
    space = {"stages.sr16.sampling.level": {"values": [0.1, 0.2]}}
    more = space | {"stages.base.sampling.steps": {"values": [1, 2]}}
    one = tiny(tmp_path, space=space)
    assert prefix(tiny(tmp_path, space=more)) == prefix(one)
    assert prefix(tiny(tmp_path, space=more, mode="joint")) == prefix(one)
    assert prefix(one.model_copy(update={"name": "by_optuna"})) != prefix(one)
    assert prefix(one.model_copy(update={"store": str(tmp_path / "elsewhere")})) == prefix(one)


def test_what_has_begun_is_known_to_the_next_command_and_to_no_other_search(tmp_path: Path) -> None:
    ledger_of(tmp_path).note("a")
    again = ledger_of(tmp_path)
    assert again.has_noted("a")
    assert not again.has_noted("b")
    assert not Ledger(open_storage(tmp_path), "searches/two", BudgetSpec(), ResourcesSpec()).has_noted("a")
