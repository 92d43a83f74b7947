"""Which trial is chosen, which are on the front, and the sentence that says why."""

from __future__ import annotations

from typing import Any

from pipeline.search.choice import best_of, front_of, why


def scored(fid: float, accuracy: float = 0.9, without: float = 0.0, samples: int = 100) -> dict[str, Any]:
    """Scores whose FIDs without one block are ``fid`` and ``without`` times a ramp of variance 35."""
    ramp = [fid + without * (number - 9.5) for number in range(20)]
    return {"samples": samples, "fid": fid, "fid_error": 0.1, "fid_without": ramp, "accuracy": accuracy}


def point(fid: float, accuracy: float, status: str = "finished") -> dict[str, Any]:
    objective = fid if status == "finished" else None
    scores = {} if status == "failed" else {"chained": scored(fid, accuracy)}
    return {"status": status, "objective": objective, "settings": {}, **scores}


def test_only_finished_trials_are_chosen_or_on_the_front() -> None:
    points = [point(1.0, 0.99, "dropped"), point(3.0, 0.9), point(2.0, 0.8), point(2.5, 0.7), point(0, 0, "failed")]
    assert best_of(points) == 2
    assert front_of(points) == [2, 1]
    told_why = why(points, 2, metric="chained_fid")
    assert told_why == (
        "lowest chained FID (2 ± 0.1) of 5 trials (1 dropped, 1 failed); no other is within the error of the "
        "difference; on the Pareto front; accuracy 0.800, at most 0.900 on the front"
    )


def test_the_reason_counts_the_others_that_are_as_good() -> None:
    points = [point(2.0, 0.97), point(2.0, 0.971), point(2.1, 0.6), point(9.0, 0.2)]
    points[1]["chained"]["fid_without"] = scored(2.0, without=0.01)["fid_without"]
    points[2]["chained"]["fid_without"] = scored(2.1, without=0.05)["fid_without"]
    assert "2 others are within the error of the difference" in why(points, 0, metric="chained_fid")
    assert "highest accuracy (0.971) of 4 trials" in why(points, 1, metric="chained_accuracy")


def test_equal_scores_are_within_the_error_of_each_other() -> None:
    """The same images give the same scores: their difference is 0, give or take 0."""
    points = [point(2.0, 0.97), point(2.0, 0.97), point(2.5, 0.97)]
    assert "1 other is within the error of the difference" in why(points, 0, metric="chained_fid")
    perfect = [point(2.0, 1.0), point(2.0, 1.0), point(2.0, 0.5)]
    assert "1 other is within the error of the difference" in why(perfect, 0, metric="chained_accuracy")
