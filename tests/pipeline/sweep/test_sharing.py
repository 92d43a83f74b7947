"""What sharing saved, counted from the seconds of stored results."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmarks.sweep_inputs import swept_experiment
from pipeline.commits import CommitLog
from pipeline.dag import Node, source_of
from pipeline.experiment import with_settings
from pipeline.storage import open_storage
from pipeline.sweep.reckoning import Reckoning
from pipeline.sweep.sharing import Costs, TrialNodes, counted, knew_levels, sharing_of, told

LEVEL, KIND = "stages.sr16.sampling.level", "stages.sr16.sampling.augmentation"


def node(name: str, number: int = 0) -> Node:
    return Node(name, "m:f", 1, {"name": name, "number": number})


def test_what_sharing_saved_is_counted_from_seconds(tmp_path: Path) -> None:
    """One base of 10 s under three trials of 4 + 1 s each: 25 s instead of 45 s."""
    base = node("chained/base")
    trials = [TrialNodes([base, node("chained/sr", k), node("scores/chained/sr", k)]) for k in range(3)]
    seconds = {"chained/base": 10.0, "chained/sr": 4.0, "scores/chained/sr": 1.0}
    costs = Costs(open_storage(tmp_path), {one.digest: seconds[one.name] for trial in trials for one in trial.full})
    found = sharing_of(trials, costs, samples=100, look=None, wall=30.0, busy=0.9)
    assert found["shared_seconds"] == 10.0
    assert found["trial_seconds"] == 15.0
    assert found["separate_seconds"] == 45.0
    assert found["saved_seconds"] == 20.0
    assert found["screening_saved_seconds"] == 0.0
    assert "what they share (10 s) was computed once" in told(found, knew_levels=True)
    assert "20 s saved of 45 s" in told(found, knew_levels=True)


def drawing(name: str, count: int, steps: int = 8, number: int = 0, earlier: Node | None = None) -> Node:
    config = {"name": name, "count": count, "number": number, "sampling": {"steps": steps}}
    return Node(name, "m:f", 1, config, context={} if earlier is None else {"earlier": earlier.key})


def screened(folder: Path, trials: list[TrialNodes], seconds: dict[Node | str, float]) -> dict[str, float]:
    """The sharing of trials with looks at 16 of 64 samples; ``seconds`` by digest."""
    costs = Costs(open_storage(folder), {str(digest): value for digest, value in seconds.items()})
    return sharing_of(trials, costs, samples=64, look=16, wall=1.0, busy=None)


def two_trials(steps: int, *, dropped: bool) -> tuple[list[TrialNodes], dict[Node | str, float]]:
    """A look at a quarter costs 1 s in all 8 steps and 0.25 s in 2 of them; the second trial ends with it."""
    trials, seconds = [], dict[Node | str, float]()
    for number in range(2):
        look = drawing("chained/sr", 16, steps, number)
        chained = drawing("chained/sr", 64, number=number, earlier=look if steps == 8 else None)
        oracle = drawing("oracle/sr", 64, number=number)
        scores = [node("scores/chained/sr", 2 * number + k) for k in range(2)]
        goes_on = number == 0
        seconds |= {look.digest: steps / 8, scores[0].digest: 0.5}
        if goes_on:
            seconds |= {chained.digest: 3.0 if steps == 8 else 4.0, oracle.digest: 4.0, scores[1].digest: 0.8}
        full = [chained, oracle, scores[1]] if goes_on or dropped else []
        trials.append(TrialNodes(full, [look, scores[0]], dropped=dropped and not goes_on))
    return trials, seconds


def test_what_screening_saved_is_reckoned_from_the_first_look(tmp_path: Path) -> None:
    """The trial that was dropped saved 3 s of its chained images and 4 s of an oracle, less the other look's scores."""
    found = screened(tmp_path, *two_trials(8, dropped=True))
    assert found["screening_saved_seconds"] == pytest.approx(3.0 + 4.0 - 0.5)
    # Alone, without a look: 4 + 4 + 0.8 s, and 4 + 4 + 0.5 s for the trial whose full scores nobody took.
    assert found["separate_seconds"] == pytest.approx(8.8 + 8.5)
    assert found["saved_seconds"] == pytest.approx(8.8 + 8.5 - (3.0 + 4.0 + 0.8 + 1.5 + 1.5))


def test_looks_in_fewer_steps_are_reckoned_by_the_calls_of_the_net(tmp_path: Path) -> None:
    """A quarter of the steps of a quarter of the samples is a sixteenth; and what goes on draws all samples."""
    found = screened(tmp_path, *two_trials(2, dropped=True))
    assert found["screening_saved_seconds"] == pytest.approx(4.0 + 4.0 - 0.25 - (0.25 + 0.5))
    assert found["separate_seconds"] == pytest.approx(8.8 + 8.5)
    assert found["saved_seconds"] == pytest.approx(8.8 + 8.5 - (4.0 + 4.0 + 0.8 + 0.75 + 0.75))


def test_a_trial_that_failed_at_its_look_saved_nothing(tmp_path: Path) -> None:
    found = screened(tmp_path, *two_trials(8, dropped=False))
    assert found["screening_saved_seconds"] == pytest.approx(-0.5), "the scores of the look that went on"
    assert found["saved_seconds"] == pytest.approx(-0.5)


def test_seconds_of_a_draw_are_those_of_its_parts_and_of_putting_them_together(tmp_path: Path) -> None:
    """Whoever computed the parts: here half of them before a kill, and the node's own seconds have the other half."""
    storage, function = open_storage(tmp_path), "pipeline.sampling:draw"
    draw = replace(drawing("chained/sr", 64), function=function)
    commits = CommitLog(storage, draw.key, owner="test", clock=time.time)
    commits.begin()
    label, folder = commits.new_folder("files")
    (folder / "drawn.json").write_text(json.dumps({"computing_seconds": 10.0, "gathering_seconds": 0.5}))
    commits.commit(label, {"node": draw.name, "summary": {}, "seconds": 5.5, "source": source_of(function)})
    assert Costs(storage).of([draw]) == 10.5
    assert Costs(storage).of([drawing("chained/sr", 32)]) == 0.0, "nothing stored, nothing spent"


def test_weights_count_where_they_are_what_is_searched() -> None:
    """Two learning rates beside two step counts are four trials with two trainings."""
    trials = []
    for rate in range(2):
        below, own = node("train/base"), node("train/sr", rate)
        for steps in range(2):
            inputs = {"stage": own, "below": node("chained/base")}
            chained = replace(node("chained/sr", 2 * rate + steps), inputs=inputs)
            scores = replace(node("scores/chained/sr"), inputs={"judged": chained, "train": below})
            trials.append([one.name for one in counted([scores], trained=["sr"])])
    assert all(sorted(names) == ["chained/base", "chained/sr", "scores/chained/sr", "train/sr"] for names in trials)
    assert "train/sr" not in {one.name for one in counted([node("train/sr")])}


def test_trainings_that_trials_share_are_said_to_be_shared(tmp_path: Path) -> None:
    weights = [node("train/sr", rate) for rate in range(2)]
    trials = [TrialNodes([weights[k // 2], node("chained/sr", k)]) for k in range(4)]
    seconds = {"train/sr": 100.0, "chained/sr": 4.0}
    costs = Costs(open_storage(tmp_path), {one.digest: seconds[one.name] for trial in trials for one in trial.full})
    found = sharing_of(trials, costs, samples=100, look=None, wall=1.0, busy=None)
    assert found["saved_seconds"] == 200.0
    assert told(found, knew_levels=True).startswith("4 trials: what they share (200 s) was computed once")


@pytest.mark.parametrize(("settings", "knew"), [({}, False), ({KIND: "non_truncated"}, True), ({LEVEL: 0.0}, True)])
def test_levels_are_proposed_one_by_one_where_a_chain_was_cut_short_at_some(
    tmp_path: Path, settings: dict[str, Any], knew: bool
) -> None:
    search = {"algorithm": "optuna", "space": {LEVEL: {"uniform": [0.0, 0.4]}}}
    experiment = swept_experiment(tmp_path, 2, samples=48, channels=8, block=16, search=search)
    assert experiment.search is not None
    assert knew_levels(experiment.search, [LEVEL], [with_settings(experiment, settings)]) == knew


def test_nothing_shared_is_said_so() -> None:
    sharing = {"trials": 3, "shared_seconds": 0.0, "saved_seconds": 0.0, "separate_seconds": 9.0}
    assert told(sharing, knew_levels=False).startswith("3 trials shared nothing: levels are proposed one by one")
    assert told({**sharing, "trials": 1}, knew_levels=True) == "one trial shares nothing"


def test_what_first_looks_lost_is_said_as_a_loss(tmp_path: Path) -> None:
    """Of looks in fewer steps nothing is taken over: a loss where nobody is dropped, or too late."""
    found = screened(tmp_path, *two_trials(2, dropped=False))
    assert found["saved_seconds"] < 0 > found["screening_saved_seconds"]
    sentence = told(
        {**found, "shared_seconds": 1.0, "saved_seconds": -5.0, "separate_seconds": 100.0}, knew_levels=True
    )
    assert sentence.endswith(
        "yet all of it took 5.0 s more than separate evaluations (100 s); first looks took 0.8 s more than they saved"
    )
    sentence = told({**found, "shared_seconds": 1.0, "saved_seconds": 5.0}, knew_levels=True, dropped=1)
    assert "-" not in sentence
    assert "by dropping" not in sentence


def test_what_is_to_be_drawn_is_reckoned_by_what_was_of_its_kind(tmp_path: Path) -> None:
    """A look at 16 of 64 in 8 steps took 1 s: in 2 steps the whole takes 1 s, in 8 steps 4 s, or 3 after its look."""
    look, scores = drawing("chained/sr", 16), node("scores/chained/sr")
    costs = Costs(open_storage(tmp_path), {look.digest: 1.0, scores.digest: 0.5})
    reckoning, computed = Reckoning(costs, look=16), [look, scores, drawing("chained/sr", 17)]
    assert reckoning.seconds([drawing("chained/sr", 64)], computed) == pytest.approx(4.0)
    assert reckoning.seconds([drawing("chained/sr", 64, 2)], computed) == pytest.approx(1.0)
    assert reckoning.seconds([drawing("chained/sr", 64, earlier=look)], computed) == pytest.approx(3.0)
    assert reckoning.seconds([drawing("oracle/sr", 64)], computed) == pytest.approx(4.0), "as the chain"
    assert reckoning.seconds([node("scores/oracle/sr"), node("scores/chained/sr", 2)], computed) == 1.0
    assert reckoning.seconds([drawing("chained/base", 64), node("train/sr")], computed) == 0.0, "nothing is known"
    assert reckoning.seconds([drawing("chained/sr", 64)] * 2, computed) == pytest.approx(4.0), "once"
