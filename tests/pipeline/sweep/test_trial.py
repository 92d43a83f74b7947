"""Rounds of real trials in this process: what is tried again, what a first look draws, and whom it is compared with."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.sweep_inputs import prepare, swept_experiment
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.budget import Ledger, prefix_of
from pipeline.search.proposals import proposals_of, with_drawn_lists
from pipeline.search.run import rounds_of
from pipeline.storage import open_storage
from pipeline.sweep.actors import ActorPool, Call, Finished
from pipeline.sweep.graph import ActorGraph
from pipeline.sweep.run import Sweep
from pipeline.sweep.trial import Trials

LEVEL, STEPS = "stages.sr16.sampling.level", "stages.sr16.sampling.steps"


@dataclass
class PoolHere(ActorPool):
    """Makes its calls in this process, one after the other, in the order in which they were submitted."""

    failed: Callable[[], None] = lambda: None  # called after each call that fails
    ended: list[Finished] = field(default_factory=list)

    def submit(self, tag: Any, function: Callable[..., Any], *arguments: Any) -> None:
        self._waiting.append(Call(tag, function, arguments))

    def wait(self, timeout: float | None = None) -> list[Finished]:
        if not self._waiting:
            return []
        call, begun = self._waiting.popleft(), time.perf_counter()
        try:
            found = Finished(call, call.function(*call.arguments), None)
        except Exception as error:
            found = Finished(call, None, error)
            self.failed()
        self.busy += time.perf_counter() - begun
        self.ended.append(found)
        return [found]


def tiny(store: Path, samples: int = 48, **search: Any) -> Experiment:
    return swept_experiment(store, 2, samples=samples, base_steps=2, channels=8, block=16, search=search)


def swept(experiment: Experiment, pool: PoolHere) -> dict[str, Any]:
    """The only round of the search, and that each point is plain JSON."""
    prepare(experiment)
    search, storage = experiment.search, open_storage(experiment.store)
    assert search is not None
    ((stage, paths),) = rounds_of(experiment)
    ledger = Ledger(storage, prefix_of(experiment, search), search.budget, experiment.resources)
    found = Sweep(
        with_drawn_lists(experiment), stage, paths, {}, proposals_of(search, paths), storage, pool, ledger,
        lambda done, total: None,
    ).run()  # fmt: skip
    json.dumps(found, allow_nan=False)
    return found


def in_the_way(experiment: Experiment, settings: dict[str, Any]) -> Path:
    """A file where a trial's images are to be stored."""
    nodes = Nodes(with_settings(with_drawn_lists(experiment), settings), trial=True)
    path = open_storage(experiment.store).path(nodes.chained("sr16").key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    return path


@pytest.mark.parametrize("heals", [True, False])
@pytest.mark.parametrize("algorithm", ["grid", "optuna"])
def test_a_trial_that_failed_is_tried_once_more_at_the_end_of_the_round(
    tmp_path: Path, algorithm: str, heals: bool
) -> None:
    space = {LEVEL: {"values": [0.1, 0.2]}, "stages.sr16.sampling.guidance": {"values": [1.0]}}
    experiment = tiny(tmp_path, algorithm=algorithm, trials=2, space=space)
    path = in_the_way(experiment, {LEVEL: 0.1})
    pool = PoolHere(1, {}, failed=lambda: path.unlink() if heals else None)
    found = swept(experiment, pool)
    points = {point["settings"][LEVEL]: point for point in found["points"]}
    assert points[0.2]["status"] == "finished"
    errors = [ended for ended in pool.ended if ended.error is not None]
    if heals:
        assert points[0.1]["status"] == "finished"
        assert points[0.1]["chained"]["samples"] == 48
        assert len(errors) == 1
    else:
        assert points[0.1]["status"] == "failed"
        assert "NotADirectoryError" in points[0.1]["error"]
        assert len(errors) == 2
        assert pool.ended[-1] is errors[-1], "when all others had ended"


def test_what_failed_at_its_first_look_is_looked_at_again(tmp_path: Path) -> None:
    search = {"space": {LEVEL: {"values": [0.0, 0.2]}}, "screening": {"samples": 48, "errors": 1e6}}
    experiment = tiny(tmp_path, samples=96, **search)
    look = Nodes(with_settings(with_drawn_lists(experiment), {LEVEL: 0.2}), trial=True, look=48).chained("sr16")
    path = open_storage(experiment.store).path(look.key)
    path.parent.mkdir(parents=True)
    path.write_text("in the way")
    found = swept(experiment, PoolHere(1, {}, failed=path.unlink))
    assert [(point["status"], point["samples"]) for point in found["points"]] == [("finished", 96)] * 2
    assert found["sharing"]["screening_saved_seconds"] <= 0, "nothing was dropped"


def test_settings_that_cannot_go_together_are_not_tried_again(tmp_path: Path) -> None:
    experiment = tiny(tmp_path)
    storage = open_storage(experiment.store)
    trials = Trials(experiment, "sr16", storage, ActorGraph(storage, PoolHere(1, {})))
    trial = trials.made({LEVEL: 0.9})
    assert trial.point is not None
    assert trial.point["status"] == "failed"
    assert not trials.broke(trial)


@pytest.mark.parametrize("metric", ["chained_fid", "chained_accuracy"])
def test_first_looks_draw_no_oracle(tmp_path: Path, metric: str) -> None:
    search = {"space": {LEVEL: {"values": [0.0, 0.2, 0.4]}}, "screening": {"samples": 48, "errors": 1e-6}}
    experiment = tiny(tmp_path, samples=96, metric=metric, **search)
    found = swept(experiment, PoolHere(1, {}))
    states = Counter(point["status"] for point in found["points"])
    assert states["finished"] >= 1
    drawn = Counter(path.name.rsplit("-", 1)[0] for path in (tmp_path / "results").iterdir())
    assert drawn["oracle-sr16"] == drawn["scores-oracle-sr16"] == states["finished"]
    assert drawn["chained-sr16"] == 3 + states["finished"]
    for point in found["points"]:
        assert (point["oracle"] is None) == (point["status"] == "dropped")
    if metric == "chained_fid":
        assert states["dropped"] >= 1
        assert "by dropping" in found["shared"]


def test_a_first_look_in_fewer_steps_is_not_the_beginning_of_all_samples(tmp_path: Path) -> None:
    screening = {"samples": 48, "errors": 1e-6, "sampling_steps": 1}
    search: dict[str, Any] = {"space": {LEVEL: {"values": [0.0, 0.2]}}}
    experiment = tiny(tmp_path / "screened", samples=96, **search, screening=screening)
    found = swept(experiment, PoolHere(1, {}))
    kept = next(point for point in found["points"] if point["status"] == "finished")
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("screened/results/chained-*/*/drawn.json")]
    assert {each["taken"] for each in facts} == {0}
    whole = swept(tiny(tmp_path / "alone", samples=96, **search), PoolHere(1, {}))
    same = next(point for point in whole["points"] if point["settings"] == kept["settings"])
    assert kept["chained"] == {**same["chained"], "passport": kept["chained"]["passport"]}
    ((samples, fid),) = kept["rungs"]
    assert samples == 48
    assert fid != kept["chained"]["fid"]


def test_a_trial_of_more_steps_is_not_dropped_for_one_of_fewer(tmp_path: Path) -> None:
    """Of two steps one look shows all there is, of eight it shows four: whichever is worse, that says nothing yet."""
    screening = {"samples": 48, "errors": 1e-9, "sampling_steps": 4}
    experiment = tiny(tmp_path, samples=96, screening=screening, space={STEPS: {"values": [2, 8]}})
    found = swept(experiment, PoolHere(1, {}))
    assert [point["status"] for point in found["points"]] == ["finished"] * 2
    fids = [point["rungs"][0][1] for point in found["points"]]
    assert fids[0] != fids[1], "one of them is worse"
