"""Rounds under a budget, on a pool that draws nothing: it stores what nodes would leave, as if they took so long."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.commits import CommitLog
from pipeline.dag import Node, missing, source_of
from pipeline.experiment_spec import Experiment, ResourcesSpec
from pipeline.nodes import Nodes
from pipeline.parts import device_of
from pipeline.search.budget import Ledger, prefix_of
from pipeline.search.proposals import proposals_of, with_drawn_lists
from pipeline.search.run import rounds_of
from pipeline.search.spec import BudgetSpec
from pipeline.storage import LocalStorage, open_storage
from pipeline.sweep.actors import ActorPool, Call, Finished
from pipeline.sweep.run import Sweep
from pipeline.sweep.sharing import COUNTED

LEVEL = "stages.sr16.sampling.level"
HOPEFUL = 0.28  # up to this level looks are within each other's errors, and above it far from all below
Seconds = Callable[[Node], float]


class Killed(BaseException):
    """The command ends here."""


def commit(node: Node, storage: LocalStorage, seconds: float) -> None:
    """Store what the node would leave, as far as a sweep reads it."""
    commits = CommitLog(storage, node.key, owner="test", clock=time.time)
    commits.begin()
    label, folder = commits.new_folder("files")
    summary: dict[str, Any] = {}
    if node.function == "pipeline.sampling:draw":
        summary = {"count": node.config["count"]}
        made = {"device": device_of(node.context), "threads": node.context["threads"]}
        (folder / "drawn.json").write_text(json.dumps({**made, "computing_seconds": seconds, "gathering_seconds": 0}))
    elif node.name.startswith("scores/"):
        drawn = node.inputs["judged"].config
        level = drawn["sampling"]["level"]
        fid = 10.0 + level + (5.0 if level > HOPEFUL else 0.0)
        without = [fid + level * block for block in (-1.5, -0.5, 0.5, 1.5)]  # errors are twice as large as differences
        summary = {"samples": drawn["count"], "fid": fid, "fid_error": 0.1, "fid_without": without, "accuracy": 0.5}
    info = {"node": node.name, "summary": summary, "seconds": seconds, "source": source_of(node.function)}
    commits.commit(label, info)


@dataclass
class Clockwork(ActorPool):
    """Ends calls in the order in which they were submitted; after ``until`` of them the command is killed."""

    storage: LocalStorage = field(default_factory=lambda: open_storage("."))
    seconds: Seconds = lambda node: 0.0
    until: int | None = None
    calls: int = 0

    def submit(self, tag: Any, function: Callable[..., Any], *arguments: Any) -> None:
        self._waiting.append(Call(tag, function, arguments))

    def wait(self, timeout: float | None = None) -> list[Finished]:
        if not self._waiting:
            return []
        if self.calls == self.until:
            raise Killed
        call, self.calls = self._waiting.popleft(), self.calls + 1
        node, whole = call.tag
        parts = [job for job in (call.arguments[0],) if not whole]
        self.busy += sum(self.seconds(node) * (job.stop - job.start) / node.config["count"] for job in parts)
        if whole:
            self.busy += self.seconds(node) if self.size == 1 else 0.0
            commit(node, self.storage, self.seconds(node))
        return [Finished(call, None, None)]


def searched(store: Path, samples: int = 512, **search: Any) -> Experiment:
    made = swept_experiment(store, 2, samples=samples, base_steps=2, channels=8, block=16, search=search)
    storage, nodes = open_storage(store), Nodes(with_drawn_lists(made), trial=True)
    for node in missing(nodes.trial_targets("sr16"), storage):
        if node.name.split("/")[0] not in COUNTED:
            commit(node, storage, 0.0)
    return made


def swept(
    experiment: Experiment, seconds: Seconds, *, size: int = 1, until: int | None = None, hours_ago: float = 0.0
) -> tuple[dict[str, Any], Ledger]:
    """The only round of the search and its ledger, in a command that began so long ago; what it spent is written."""
    search, storage = experiment.search, open_storage(experiment.store)
    assert search is not None
    ((stage, paths),) = rounds_of(experiment)
    begun = time.monotonic() - 3600.0 * hours_ago
    ledger = Ledger(storage, prefix_of(experiment, search), search.budget, experiment.resources, started=begun)
    pool = Clockwork(size, {}, storage=storage, seconds=seconds, until=until)
    sweep = Sweep(
        with_drawn_lists(experiment), stage, paths, {}, proposals_of(search, paths), storage, pool, ledger,
        lambda done, total: None,
    )  # fmt: skip
    try:
        return sweep.run(), ledger
    finally:
        ledger.write()


def in_hours(**hours: float) -> Seconds:
    """Each node takes so many hours, by the beginning of its name."""
    return lambda node: 3600.0 * sum(value for name, value in hours.items() if node.name == name.replace("_", "/"))


def by_samples(hours: float) -> Seconds:
    """Images of the stage take so many hours for each sample; a draw takes over what a look drew."""

    def seconds(node: Node) -> float:
        if node.name not in ("chained/sr16", "oracle/sr16"):
            return 0.0
        taken = 48 if "earlier" in node.context else 0
        return 3600.0 * hours * float(node.config["count"] - taken)

    return seconds


def levels(count: int) -> dict[str, Any]:
    return {LEVEL: {"values": [round(0.4 * number / count, 4) for number in range(1, count + 1)]}}


def states(found: dict[str, Any]) -> Counter[str]:
    return Counter(point["status"] for point in found["points"])


def test_what_open_trials_share_and_have_drawn_already_is_not_reserved_again(tmp_path: Path) -> None:
    """Half a GPU-hour of a trajectory for all, and 24 trials of a tenth: 2.9 of 4. The first ends when the parts of all
    that wait beside it are drawn."""
    experiment = searched(tmp_path, space=levels(24), budget={"gpu_hours": 4.0})
    found, ledger = swept(experiment, in_hours(chained_base=0.5, chained_sr16=0.06, oracle_sr16=0.04), size=8)
    assert states(found) == {"finished": 24}
    assert "budget" not in found["shared"]
    assert ledger.gpu_hours == pytest.approx(2.9)


def test_where_only_what_runs_stands_against_a_trial_it_is_waited_for(tmp_path: Path) -> None:
    experiment = searched(tmp_path, space=levels(24), budget={"gpu_hours": 0.95})
    found, ledger = swept(experiment, in_hours(chained_sr16=0.06, oracle_sr16=0.04), size=2)
    assert states(found) == {"finished": 10}, "the tenth began at nine tenths"
    assert ledger.gpu_hours == pytest.approx(1.0)
    assert "the budget was spent before 14 more began" in found["shared"]


def test_an_impossible_trial_says_nothing_of_what_others_will_take(tmp_path: Path) -> None:
    space = {LEVEL: {"values": [0.9, *levels(8)[LEVEL]["values"]]}}
    experiment = searched(tmp_path, space=space, budget={"gpu_hours": 0.95})
    found, _ = swept(experiment, in_hours(chained_sr16=0.1), size=1)
    assert states(found) == {"failed": 1, "finished": 8}


SCREENED: dict[str, Any] = {"screening": {"samples": 48}}


@pytest.mark.parametrize("until", [10, 13, 18])
@pytest.mark.parametrize("algorithm", ["grid", "optuna"])
def test_a_command_that_is_killed_leaves_the_next_one_the_same_trials_and_choice(
    tmp_path: Path, algorithm: str, until: int
) -> None:
    """Whether the budget is left or spent then: those that were dropped after a look are looked up, too."""
    space = {LEVEL: {"values": [0.15, 0.1, 0.4, 0.3, 0.2]}}
    search = {"algorithm": algorithm, "trials": 12, "space": space, "budget": {"gpu_hours": 3.0}, **SCREENED}
    calm, spent = swept(searched(tmp_path / "calm", samples=192, **search), by_samples(1 / 300))
    assert {"dropped", "finished"} == set(states(calm))
    assert spent.is_spent()
    killed = searched(tmp_path / "killed", samples=192, **search)
    with pytest.raises(Killed):
        swept(killed, by_samples(1 / 300), until=until)
    found, ledger = swept(killed, by_samples(1 / 300))
    assert found["points"] == calm["points"]
    assert ledger.gpu_hours == pytest.approx(spent.gpu_hours)


@pytest.mark.parametrize(("until", "finished"), [(8, 1), (9, 2)])
def test_of_a_list_what_had_begun_is_finished_after_a_kill(tmp_path: Path, until: int, finished: int) -> None:
    """Nine calls are the looks at four trials, of which two are hopeless; then the others go on, while there is budget,
    and without it the best alone."""
    space = {LEVEL: {"values": [0.1, 0.2, 0.3, 0.4]}}
    experiment = searched(tmp_path, samples=96, space=space, budget={"hours": 2.0}, **SCREENED)
    with pytest.raises(Killed):
        swept(experiment, in_hours(), until=until, hours_ago=1.9)
    found, _ = swept(experiment, in_hours(), hours_ago=0.2)
    assert states(found) == {"finished": finished, "dropped": 4 - finished}


def test_survivors_of_first_looks_go_on_while_the_budget_lasts_the_best_first(tmp_path: Path) -> None:
    """A look takes 0.16 h and the rest of a trial 1.12: three of five can go on."""
    space = {LEVEL: {"values": [0.26, 0.2, 0.15, 0.27, 0.25]}}
    experiment = searched(tmp_path, samples=192, space=space, budget={"gpu_hours": 3.5}, **SCREENED)
    found, ledger = swept(experiment, by_samples(1 / 300))
    assert states(found) == {"finished": 3, "dropped": 2}
    best = sorted(point["settings"][LEVEL] for point in found["points"] if point["status"] == "finished")
    assert best == [0.15, 0.2, 0.25]
    assert ledger.gpu_hours == pytest.approx(5 * 0.16 + 3 * 1.12)
    assert "2 were dropped after a first look because the budget was spent" in found["shared"]


def test_first_looks_leave_room_for_one_whole_trial(tmp_path: Path) -> None:
    """The sixth look begins at 0.8 h: 1.12 more are 1.92."""
    experiment = searched(tmp_path, samples=192, space=levels(20), budget={"gpu_hours": 2.0}, **SCREENED)
    found, ledger = swept(experiment, by_samples(1 / 300))
    assert states(found) == {"finished": 1, "dropped": 5}
    assert ledger.gpu_hours == pytest.approx(6 * 0.16 + 1.12)
    assert "the budget was spent before 14 more began" in found["shared"]


def test_one_trial_goes_on_even_where_looks_took_all(tmp_path: Path) -> None:
    """Nothing is known of what looks take before the first has ended."""
    space = {LEVEL: {"values": [0.2, 0.1]}}
    experiment = searched(tmp_path, samples=192, space=space, budget={"gpu_hours": 0.1}, **SCREENED)
    found, _ = swept(experiment, by_samples(1 / 300))
    assert states(found) == {"finished": 1, "dropped": 1}


def test_nothing_that_is_stored_is_kept_back(tmp_path: Path) -> None:
    search = {"space": levels(4), **SCREENED}
    whole, _ = swept(searched(tmp_path, samples=96, **search), in_hours())
    again = searched(tmp_path, samples=96, budget={"hours": 1.0}, **search)
    found, ledger = swept(again.model_copy(update={"name": "another"}), in_hours(), hours_ago=2.0)
    assert ledger.is_spent()
    assert [point["objective"] for point in found["points"]] == [point["objective"] for point in whole["points"]]


def test_of_a_small_space_no_more_trials_are_missing_than_there_are(tmp_path: Path) -> None:
    search = {"algorithm": "optuna", "trials": 20, "space": levels(4), "budget": {"gpu_hours": 0.15}}
    found, _ = swept(searched(tmp_path, **search), in_hours(chained_sr16=0.1))
    assert len(found["points"]) == 2
    assert "the budget was spent before 2 more began" in found["shared"]


def test_calls_that_never_end_are_charged_too(tmp_path: Path) -> None:
    """One actor draws all of a node in one call: a command that is interrupted meanwhile has spent that time."""
    pool = Clockwork(1, {}, storage=open_storage(tmp_path))
    ledger = Ledger(open_storage(tmp_path), "searches/one", BudgetSpec(), ResourcesSpec())
    with ledger.metered(lambda: pool.spent):
        pool._running["reference"] = ("actor", Call("tag", commit, ()), time.perf_counter() - 3600.0)
        assert pool.busy == 0.0
        assert ledger.gpu_hours == pytest.approx(1.0, abs=0.01)
        ledger.write()
        assert json.loads(next((tmp_path / "searches/one/spent").iterdir()).read_text())["gpu_hours"] > 0.99
    pool._running.clear()
    assert ledger.gpu_hours == pytest.approx(1.0, abs=0.01), "also when the pool has called it off"
