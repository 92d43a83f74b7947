"""What an ablation found, in sentences that claim no more than its table shows; and which cell to choose.

That nothing was found is told with what could have been seen, and never as equality, which takes a claim of its own
(``comparisons.equalities``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline.ablation import words
from pipeline.ablation.comparisons import POWER, Comparisons, Difference, Values, by_seed, paired
from pipeline.ablation.metrics import METRICS, mean
from pipeline.ablation.spec import Metric
from pipeline.ablation.statistics import paired_difference
from pipeline.search.pareto import front


class Choice(NamedTuple):
    """The name of the chosen cell, None where none has a chained FID, and why."""

    cell: str | None
    why: str


def verdicts(compared: Comparisons) -> list[str]:
    """A sentence for every difference that was found, then one per metric for those that were not.

    A difference counts as found where Holm's adjusted p is at most 1 - confidence; where its simultaneous interval has
    0 in it none the less, that is said.
    """
    by_metric = {
        metric: {cell: found[metric] for cell, found in compared.differences.items() if metric in found}
        for metric in compared.metrics
    }
    told = [sentence for metric, found in by_metric.items() for sentence in _found(compared, metric, found)]
    told += [sentence for metric, found in by_metric.items() for sentence in _open(compared, metric, found)]
    return told or [f"No cell can be compared with {compared.baseline} yet."]


def _is_found(compared: Comparisons, difference: Difference) -> bool:
    return difference.p <= 1 - compared.confidence


def _found(compared: Comparisons, metric: Metric, differences: Mapping[str, Difference]) -> Iterator[str]:
    name, lower, _ = METRICS[metric]
    for cell, one in differences.items():
        if not _is_found(compared, one):
            continue
        way, good = "lower" if one.mean < 0 else "higher", (one.mean < 0) == lower
        across = ""
        if one.low <= 0 <= one.high:
            across = "; that interval has 0 in it, so that there is a difference is all that was found"
        yield (
            f"{cell} has a {way} {name} than {compared.baseline}, by {words.difference(metric, abs(one.mean))}, which "
            f"is {'better' if good else 'worse'}: the simultaneous {words.per_cent(compared.confidence)} interval of "
            f"the difference is {words.interval(metric, one.low, one.high)} over {words.seeds(one.n)} "
            f"(Holm-adjusted {words.probability(one.p)}){across}."
        )


def _open(compared: Comparisons, metric: Metric, differences: Mapping[str, Difference]) -> Iterator[str]:
    rest = {cell: one for cell, one in differences.items() if not _is_found(compared, one)}
    same = [cell for cell, one in rest.items() if one.mean == 0 and one.error == 0]
    if same:
        yield f"{words.listed(same)} had the {METRICS[metric].name} of {compared.baseline} under every seed."
    told = [
        f"{cell} {words.interval(metric, one.low, one.high)} over {words.seeds(one.n)}, where "
        f"{words.difference(metric, one.detectable)} or more would have been found {words.per_cent(POWER)} of the time"
        for cell, one in rest.items()
        if cell not in same
    ]
    if told:
        yield (
            f"No difference from {compared.baseline} in {METRICS[metric].name} was found, which is no sign of "
            f"equality, for {'; '.join(told)} (were the true spread what it was here)."
        )


def chosen(values: Values, *, confidence: float = 0.95) -> Choice:
    """The cell with the lowest mean chained FID (of equal ones the more accurate, then the first), and why.

    A cell that lacks seeds which another has is passed over: its mean is one of other seeds, and could be the lowest
    by which of them failed. The lowest of several means is on average a little lower than that cell's true one.
    """
    fids = {cell: found for cell in values if (found := by_seed(values, cell, "chained_fid"))}
    if not fids:
        return Choice(None, "No cell has a chained FID.")
    most = max(len(found) for found in fids.values())
    short = [cell for cell, found in fids.items() if len(found) < most]
    accuracy = {cell: _mean(values, cell, "accuracy") for cell in values}
    ranked = sorted(
        (cell for cell in fids if cell not in short),
        key=lambda cell: (_mean(values, cell, "chained_fid"), -(accuracy[cell] or 0.0)),
    )
    best = ranked[0]
    told = [
        f"{best} has the lowest mean chained FID of {len(ranked)} cell{'s' if len(ranked) > 1 else ''}, "
        f"{words.value('chained_fid', mean(fids[best].values()) or 0.0)} over {words.seeds(most)}."
    ]
    if len(ranked) > 1:
        told.append(_next_best(values, best, ranked[1], confidence))
    told += _trade(values, best)
    if short:
        lacking = words.listed([f"{cell} ({len(fids[cell])} of {most} seeds)" for cell in short])
        told.append(f"Passed over for the seeds that they lack: {lacking}.")
    return Choice(best, " ".join(told))


def _mean(values: Values, cell: str, metric: Metric) -> float | None:
    return mean(by_seed(values, cell, metric).values())


def _next_best(values: Values, best: str, other: str, confidence: float) -> str:
    """Whether the seeds tell the two apart: by a plain paired interval, not corrected for picking them."""
    pairs = paired(values, other, best, "chained_fid")
    if len(pairs[0]) < 2:
        return f"The next best is {other}; with {words.seeds(len(pairs[0]))} in common nothing tells the two apart."
    found = paired_difference(*pairs, confidence=confidence)
    apart = found.low > 0
    return (
        f"The next best, {other}, is {words.difference('chained_fid', found.mean)} above it, and the "
        f"{words.per_cent(confidence)} paired interval of that difference, "
        f"{words.interval('chained_fid', found.low, found.high)}, "
        + ("leaves 0 out." if apart else "has 0 in it: these seeds do not tell the two apart.")
    )


def _trade(values: Values, best: str) -> list[str]:
    """Where the chosen cell stands in FID and accuracy at once."""
    means = {cell: (_mean(values, cell, "chained_fid"), _mean(values, cell, "accuracy")) for cell in values}
    both = {cell: (fid, share) for cell, (fid, share) in means.items() if fid is not None and share is not None}
    if best not in both or len(both) < 2:
        return []
    names = list(both)
    kept = [names[index] for index in front([both[cell] for cell in names])]
    others = [
        f"{cell} (accuracy {words.value('accuracy', both[cell][1])}, FID {words.value('chained_fid', both[cell][0])})"
        for cell in kept
        if cell != best
    ]
    own = words.value("accuracy", both[best][1])
    if best not in kept:
        return [f"It is not on the Pareto front of FID and accuracy ({own}), which is {words.listed(others)}."]
    if not others:
        return [f"No cell has a higher accuracy ({own}): FID and accuracy agree."]
    return [f"It is on the Pareto front of FID and accuracy ({own}), with {words.listed(others)}."]
