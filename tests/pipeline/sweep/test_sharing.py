"""What sharing saved, counted from the seconds of stored results."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dag import Node
from pipeline.storage import open_storage
from pipeline.sweep.sharing import Costs, TrialNodes, sharing_of, told


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


def test_what_screening_saved_is_reckoned_from_the_first_look(tmp_path: Path) -> None:
    """A quarter of the samples costs 1 of 4 s. One of two trials is dropped: it saves 3 s, less the look's scores."""
    looks = [[node("chained/sr", 10 + k), node("scores/chained/sr", 10 + k)] for k in range(2)]
    full = [node("chained/sr", 0), node("scores/chained/sr", 0)]
    costs = {one.digest: value for pair in looks for one, value in zip(pair, (1.0, 0.5), strict=True)}
    costs |= {one.digest: value for one, value in zip(full, (3.0, 0.8), strict=True)}
    trials = [TrialNodes(full, looks[0]), TrialNodes([], looks[1])]
    found = sharing_of(trials, Costs(open_storage(tmp_path), costs), samples=64, look=16, wall=1.0, busy=None)
    assert found["screening_saved_seconds"] == pytest.approx(3.0 - 0.5)
    # Alone, without a look: 4 + 0.8 s, and 4 + 0.5 s for the trial whose full scores nobody took.
    assert found["separate_seconds"] == pytest.approx(4.8 + 4.5)
    assert found["saved_seconds"] == pytest.approx(4.8 + 4.5 - (3.0 + 0.8 + 1.5 + 1.5))


def test_nothing_shared_is_said_so() -> None:
    sharing = {"trials": 3, "shared_seconds": 0.0, "saved_seconds": 0.0, "separate_seconds": 9.0}
    assert told(sharing, knew_levels=False).startswith("3 trials shared nothing: levels are proposed one by one")
    assert told({**sharing, "trials": 1}, knew_levels=True) == "one trial shares nothing"
