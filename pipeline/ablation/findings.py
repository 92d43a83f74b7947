"""What an ablation found, in sentences that claim no more than its table shows; and which cell to choose.

That nothing was found is told with what could have been seen, and never as equality, which takes a claim of its own
(``comparisons.equalities``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.ablation import words
from pipeline.ablation.comparisons import POWER, Comparisons, Difference, Ranking, Values, by_seed, ranking
from pipeline.ablation.metrics import METRICS, mean
from pipeline.ablation.spec import Metric
from pipeline.ablation.statistics import is_found, paired_difference
from pipeline.search.pareto import front


class Choice(NamedTuple):
    """The name of the chosen cell, None where too few can be ranked, and why."""

    cell: str | None
    why: str


def verdicts(compared: Comparisons) -> list[str]:
    """A sentence for every difference that was found, then one per metric for those that were not.

    What counts as found: see ``is_found``; where its simultaneous interval has 0 in it none the less, that is said.
    """
    by_metric = {
        metric: {cell: found[metric] for cell, found in compared.differences.items() if metric in found}
        for metric in compared.metrics
    }
    told = [sentence for metric, found in by_metric.items() for sentence in _found(compared, metric, found)]
    told += [sentence for metric, found in by_metric.items() for sentence in _open(compared, metric, found)]
    return told or [f"No cell can be compared with {compared.baseline} yet."]


def _found(compared: Comparisons, metric: Metric, differences: Mapping[str, Difference]) -> Iterator[str]:
    for cell, one in differences.items():
        if one.p is None or one.low is None or one.high is None or not is_found(one.p, compared.confidence):
            continue
        good = (one.mean < 0) == METRICS[metric].lower
        across = ""
        if one.low <= 0 <= one.high:
            across = "; that interval has 0 in it, so that there is a difference is all that was found"
        yield (
            f"{_away(compared, cell, metric, one)}, which is {'better' if good else 'worse'}: the simultaneous "
            f"{words.per_cent(compared.confidence)} interval of the difference is "
            f"{words.interval(metric, one.low, one.high)} over {words.seeds(one.n)} "
            f"(Holm-adjusted {words.probability(one.p)}){across}."
        )


def _away(compared: Comparisons, cell: str, metric: Metric, one: Difference) -> str:
    way = "lower" if one.mean < 0 else "higher"
    by = words.difference(metric, abs(one.mean))
    return f"{cell} has a {way} {METRICS[metric].name} than {compared.baseline}, by {by}"


def _open(compared: Comparisons, metric: Metric, differences: Mapping[str, Difference]) -> Iterator[str]:
    flat = {cell: one for cell, one in differences.items() if one.error == 0}
    same = [cell for cell, one in flat.items() if one.mean == 0]
    if same:
        yield f"{words.listed(same)} had the {METRICS[metric].name} of {compared.baseline} under every seed."
    for cell, one in flat.items():
        if cell not in same:
            yield (
                f"{_away(compared, cell, metric, one)}, the same under each of {words.seeds(one.n)}: no spread was "
                "seen, so there is no interval, and it does not count as found."
            )
    told = [
        f"{cell} {words.interval(metric, one.low, one.high)} over {words.seeds(one.n)}, where "
        f"{words.difference(metric, one.detectable)} or more would have been found {words.per_cent(POWER)} of the time"
        for cell, one in differences.items()
        if one.low is not None and one.high is not None and one.detectable is not None
        if not is_found(one.p, compared.confidence)
    ]
    if told:
        yield (
            f"No difference from {compared.baseline} in {METRICS[metric].name} was found, which is no sign of "
            f"equality, for {'; '.join(told)} (were the true spread what it was here)."
        )


class _Goals(NamedTuple):
    """Means of a cell over the seeds that are ranked; no accuracy where one of these lacks it."""

    fid: float
    accuracy: float | None


def chosen(values: Values, *, confidence: float = 0.95) -> Choice:
    """The cell with the lowest mean chained FID (of equal ones the more accurate, then the first), and why.

    Means are over the seeds that all ranked cells have (``ranking``), and cells that lack these are passed over. The
    lowest of several means is on average a little lower than that cell's true one.
    """
    ranks = ranking(values)
    if not ranks.cells:
        scored = sum(bool(by_seed(values, cell, "chained_fid")) for cell in values)
        return Choice(None, f"Nothing is chosen: {_too_few(scored, len(values))}.")
    goals = _goals(values, ranks)
    order = sorted(ranks.cells, key=lambda cell: (goals[cell].fid, -(goals[cell].accuracy or 0.0)))
    best, count = order[0], len(ranks.seeds)
    further = any(len(by_seed(values, cell, "chained_fid")) > count for cell in order)
    told = [
        f"{best} has the lowest mean chained FID of {len(order)} cells, "
        f"{words.value('chained_fid', goals[best].fid)} over {words.seeds(count)}"
        f"{' that all of them have' if further else ''}.",
        _next_best(values, ranks.seeds, best, order[1], confidence),
        *_trade(values, best),
    ]
    if ranks.short:
        lacking = words.listed([f"{cell} (has {own} of {count})" for cell, own in ranks.short.items()])
        told.append(f"Passed over, here and on the front, for seeds that they lack: {lacking}.")
    return Choice(best, " ".join(told))


def _too_few(scored: int, cells: int) -> str:
    if scored < 2:
        return f"{'one cell' if scored else 'no cell'} of {cells} has a chained FID, and a choice takes two"
    return f"no seed has a chained FID in two cells and in half of all {cells}"


def front_of(values: Values) -> list[str]:
    """The cells on the Pareto front of chained FID and accuracy, the lowest FID first: of those that are ranked, by
    their means over the seeds that all of these have (``ranking``)."""
    both = {
        cell: (found.fid, found.accuracy)
        for cell, found in _goals(values, ranking(values)).items()
        if found.accuracy is not None
    }
    names = list(both)
    return [names[index] for index in front([both[cell] for cell in names])]


def _goals(values: Values, ranks: Ranking) -> dict[str, _Goals]:
    """By ranked cell."""
    found = {}
    for cell in ranks.cells:
        fids, shares = by_seed(values, cell, "chained_fid"), by_seed(values, cell, "accuracy")
        whole = all(seed in shares for seed in ranks.seeds)
        accuracy = mean(shares[seed] for seed in ranks.seeds) if whole else None
        found[cell] = _Goals(mean(fids[seed] for seed in ranks.seeds) or 0.0, accuracy)
    return found


def _next_best(values: Values, seeds: Sequence[int], best: str, other: str, confidence: float) -> str:
    """Whether the ``seeds`` tell the two apart, by a plain paired interval: which two was decided by the same means, so
    that it leaves 0 out more often than its confidence says."""
    if len(seeds) < 2:
        return f"The next best is {other}; with {words.seeds(len(seeds))} in common nothing tells the two apart."
    theirs, mine = by_seed(values, other, "chained_fid"), by_seed(values, best, "chained_fid")
    found = paired_difference([theirs[seed] for seed in seeds], [mine[seed] for seed in seeds], confidence=confidence)
    above = f"The next best, {other}, is {words.difference('chained_fid', found.mean)} above it"
    if found.error == 0:
        return f"{above}, the same under each of {words.seeds(found.n)}: no spread was seen, so there is no interval."
    return (
        f"{above}, and the {words.per_cent(confidence)} paired interval of that difference (not corrected for picking "
        f"these two by their means), {words.interval('chained_fid', found.low, found.high)}, "
        + ("leaves 0 out." if found.low > 0 else "has 0 in it: these seeds do not tell the two apart.")
    )


def _trade(values: Values, best: str) -> list[str]:
    """Where the chosen cell stands in FID and accuracy at once; it is on the front, having the lowest FID."""
    goals, kept = _goals(values, ranking(values)), front_of(values)
    if best not in kept or sum(one.accuracy is not None for one in goals.values()) < 2:
        return []
    told = {cell: words.value("accuracy", goals[cell].accuracy or 0.0) for cell in kept}
    others = [
        f"{cell} (accuracy {told[cell]}, FID {words.value('chained_fid', goals[cell].fid)})"
        for cell in kept
        if cell != best
    ]
    if not others:
        return [f"No cell has a higher accuracy ({told[best]}): FID and accuracy agree."]
    return [f"It is on the Pareto front of FID and accuracy ({told[best]}), with {words.listed(others)}."]
