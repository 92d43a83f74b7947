"""Which trial of a round is chosen, which are on the Pareto front of FID and accuracy, and why: words and indices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.comparing import paired_error, within_error
from pipeline.search.pareto import front

Point = Mapping[str, Any]


def finished(points: Sequence[Point]) -> list[int]:
    """Indices of the trials that had the full budget and a score: those that can be chosen."""
    return [number for number, point in enumerate(points) if point["status"] == "finished"]


def best_of(points: Sequence[Point]) -> int:
    """Index of the best of those that can be chosen; of equals the first. There must be one."""
    return min(finished(points), key=lambda number: (points[number]["objective"], number))


def front_of(points: Sequence[Point]) -> list[int]:
    """Indices of the finished points that no other beats in chained FID and accuracy at once, by ascending FID."""
    pairs = {number: (points[number]["chained"]["fid"], points[number]["chained"]["accuracy"]) for number in
             finished(points)}  # fmt: skip
    whole = {number: pair for number, pair in pairs.items() if None not in pair and all(map(math.isfinite, pair))}
    numbers = list(whole)
    return [numbers[index] for index in front([whole[number] for number in numbers], minimise=(True, False))]


def why(points: Sequence[Point], chosen: int, *, metric: str) -> str:
    """One sentence: the score that decided, how many others are as good as far as one can tell, and the other goal."""
    scores, on_front = points[chosen]["chained"], front_of(points)
    others = [points[number]["chained"] for number in finished(points) if number != chosen]
    close = sum(_as_good(scores, other, metric) for other in others)
    by_fid = metric == "chained_fid"
    best = f"lowest chained FID ({_fid(scores)})" if by_fid else f"highest accuracy ({scores['accuracy']:.3f})"
    parts = [
        f"{best} of {_trials(points)}",
        f"{close or 'no'} other{' is' if close < 2 else 's are'} within the error of the difference",
    ]
    if chosen in on_front:
        parts.append("on the Pareto front")
    elif on_front:
        parts.append("not on the Pareto front")
    if on_front:
        parts.append(_other_goal(scores, [points[number]["chained"] for number in on_front], by_fid=by_fid))
    return "; ".join(parts)


def _other_goal(scores: Mapping[str, Any], on_front: Sequence[Mapping[str, Any]], *, by_fid: bool) -> str:
    if by_fid:
        most = max(other["accuracy"] for other in on_front)
        return f"accuracy {scores['accuracy']:.3f}, at most {most:.3f} on the front"
    least = min(other["fid"] for other in on_front)
    return f"chained FID {_fid(scores)}, at least {least:.3g} on the front"


def _as_good(scores: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> bool:
    """Whether two scores differ by no more than twice the error of their difference.

    Of accuracies that is the error of independent ones, which is more than that of trials with the same seeds.
    """
    if metric == "chained_fid":
        pair = [(one["fid"], one["fid_error"]) for one in (scores, other)]
        return within_error(pair[0], pair[1], paired_error(scores, other))
    pair = [(one["accuracy"], _binomial_error(one)) for one in (scores, other)]
    return within_error(pair[0], pair[1])


def _binomial_error(scores: Mapping[str, Any]) -> float:
    share = scores["accuracy"]
    return math.sqrt(share * (1.0 - share) / scores["samples"])


def _fid(scores: Mapping[str, Any]) -> str:
    if scores["fid"] is None:
        return "none"
    error = scores.get("fid_error")
    return f"{scores['fid']:.3g}" + (f" ± {error:.2g}" if error else "")


def _trials(points: Sequence[Point]) -> str:
    told = f"{len(points)} trial{'' if len(points) == 1 else 's'}"
    others = [f"{count} {status}" for status in ("dropped", "pruned", "failed") if (count := _count(points, status))]
    return f"{told} ({', '.join(others)})" if others else told


def _count(points: Sequence[Point], status: str) -> int:
    return sum(point["status"] == status for point in points)
