"""From the scores of replicates to an ablation's table, and what comes of claims of equality. Findings in words: see
``findings``.

Values are nested by cell, seed and metric (``pipeline.ablation.metrics``); a replicate that failed, or a metric that
was not taken, is simply absent (a cell without any stays, empty). Cells are compared with the baseline over the seeds
that both have. No Ray, MLflow, torch or NumPy, and SciPy only once something is compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from pipeline.ablation import statistics, words
from pipeline.ablation.metrics import METRICS, mean
from pipeline.ablation.spec import Metric

Values = Mapping[str, Mapping[int, Mapping[Metric, float]]]

POWER = 0.8  # how likely a detectable difference would have been found


class Difference(NamedTuple):
    """Cell minus baseline over the ``n`` seeds that both have: mean, standard error, simultaneous interval, p adjusted
    by Holm, and the smallest difference that would have been found with probability ``POWER``.

    Where it was the same under every seed the error is 0 and what rests on a spread is None: none was seen, which is
    not to say that there is none.
    """

    mean: float
    error: float
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    n: int


class Comparisons(NamedTuple):
    """What ``compare`` found, by cell and metric; the baseline has no differences. ``notes`` say what has none, why."""

    baseline: str
    confidence: float
    metrics: list[Metric]
    differences: dict[str, dict[Metric, Difference]]
    notes: list[str]


class Claim(Protocol):
    """That two cells are equal in a metric within a margin, one of: in its units, or a share of the first's mean."""

    @property
    def cells(self) -> tuple[str, str]: ...
    @property
    def metric(self) -> Metric: ...
    @property
    def margin(self) -> float | None: ...
    @property
    def relative_margin(self) -> float | None: ...


class Equality(NamedTuple):
    """What came of a claim: ``low`` to ``high`` is the interval of the second cell minus the first, p that of a
    difference of ``margin`` or more; None of fewer than 2 common seeds, or where all have the same difference, other
    than none. ``margin`` is in units of the metric, 0 where a relative one has no mean to be a share of.
    """

    cells: tuple[str, str]
    metric: Metric
    margin: float
    low: float | None
    high: float | None
    p: float | None
    equal: bool
    sentence: str


def compare(
    values: Values, baseline: str, *, confidence: float = 0.95, metrics: Sequence[Metric] = tuple(METRICS)
) -> Comparisons:
    """Differences of every cell from ``baseline``, of those ``metrics`` that any replicate has.

    The family within which intervals hold at once and Holm's probability of a false find is kept, is all cells other
    than the baseline, for each metric by itself; those that cannot be compared, or not yet, count as well and as not
    found, so that their seeds, once there, do not move the others. ValueError for a baseline that is not among the
    cells.
    """
    if baseline not in values:
        raise ValueError(f"there is no baseline {baseline!r} among the cells; cells are {', '.join(values)}")
    taken = [
        metric for metric in metrics if any(metric in found for cell in values.values() for found in cell.values())
    ]
    differences: dict[str, dict[Metric, Difference]] = {cell: {} for cell in values if cell != baseline}
    for metric in taken:
        for cell, difference in _differences(values, baseline, metric, confidence).items():
            differences[cell][metric] = difference
    notes = list(_notes(values, baseline, taken))
    return Comparisons(baseline, confidence, taken, differences, notes)


def by_seed(values: Values, cell: str, metric: Metric) -> dict[int, float]:
    """The metric of ``cell`` under each seed that has it."""
    return {seed: found[metric] for seed, found in values.get(cell, {}).items() if metric in found}


def paired(values: Values, one: str, other: str, metric: Metric) -> tuple[list[float], list[float]]:
    """The metric of both cells, under the seeds that both have, in one order."""
    mine, theirs = by_seed(values, one, metric), by_seed(values, other, metric)
    seeds = sorted(mine.keys() & theirs.keys())
    return [mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]


class Ranking(NamedTuple):
    """The ``cells`` whose means can be ranked, the ``seeds`` that the means are over, which all of these have, and of
    each cell that is left out how many of these seeds it has."""

    cells: list[str]
    seeds: list[int]
    short: dict[str, int]


def ranking(values: Values) -> Ranking:
    """The cells to rank, and over which seeds: those that most replicates are of that all ranked cells have (of equal
    ones with the most cells, then with the earliest seeds). A cell's further seeds count nothing.

    Nothing where no seeds have a chained FID in two cells and in half of them: a cell is not the best for having got
    through a bad seed alone. Nor is one by which of its seeds failed, a mean being one of its seeds.
    """
    found = {cell: frozenset(by_seed(values, cell, "chained_fid")) for cell in values}
    fewest = max(2, math.ceil(len(values) / 2))
    best: tuple[tuple[int, int, list[int]], list[str], frozenset[int]] | None = None
    for seeds in _common(found.values()):
        cells = [cell for cell, mine in found.items() if seeds <= mine]
        rank = (len(cells) * len(seeds), len(cells), [-seed for seed in sorted(seeds)])
        if len(cells) >= fewest and (best is None or rank > best[0]):
            best = rank, cells, seeds
    if best is None:
        return Ranking([], [], {})
    _, cells, seeds = best
    short = {cell: len(mine & seeds) for cell, mine in found.items() if mine and cell not in cells}
    return Ranking(cells, sorted(seeds), short)


def _common(found: Iterable[frozenset[int]]) -> set[frozenset[int]]:
    """Every set of seeds that some cells have in common."""
    common: set[frozenset[int]] = set()
    for mine in set(found):
        common |= {mine, *(mine & other for other in common)}
    return common - {frozenset()}


def _differences(values: Values, baseline: str, metric: Metric, confidence: float) -> dict[str, Difference]:
    others = [cell for cell in values if cell != baseline]
    pairs = {cell: paired(values, cell, baseline, metric) for cell in others}
    able = {cell: pair for cell, pair in pairs.items() if len(pair[0]) > 1}
    alone = {cell: statistics.paired_difference(*pair) for cell, pair in able.items()}
    spread = {cell: able[cell] for cell, one in alone.items() if one.error > 0}
    found = statistics.simultaneous_differences(list(spread.values()), comparisons=len(others), confidence=confidence)
    result = {cell: Difference(one.mean, 0.0, None, None, None, None, one.n) for cell, one in alone.items()}
    for cell, one in zip(spread, found, strict=True):
        seen = statistics.detectable(one.deviation, one.n, comparisons=len(others), confidence=confidence, power=POWER)
        result[cell] = Difference(one.mean, one.error, one.low, one.high, one.p, seen, one.n)
    return result


def _notes(values: Values, baseline: str, metrics: Sequence[Metric]) -> Iterator[str]:
    """Why a cell has no differences: a sentence for each cell and count of common seeds."""
    for cell in (cell for cell in values if cell != baseline):
        short: dict[int, list[str]] = {}
        for metric in metrics:
            common = len(paired(values, cell, baseline, metric)[0])
            if common < 2:
                short.setdefault(common, []).append(METRICS[metric].name)
        for common, names in short.items():
            which = "" if len(names) == len(metrics) else f" in {words.listed(names)}"
            yield f"{cell} has no interval of its difference from {baseline}{which}: {_both(common)}."


def _both(common: int) -> str:
    return f"{words.seeds(common)} {'has' if common == 1 else 'have'} it in both, where it takes 2"


def equalities(values: Values, claims: Iterable[Claim], *, confidence: float = 0.95) -> list[Equality]:
    """What comes of each of ``claims``, by two one-sided tests over the seeds that both cells have.

    Each claim is tested by itself, at level 1 - ``confidence``. A relative margin is taken of the mean of the first
    cell over those seeds, and then as given: that it was measured too is left out of account.
    """
    return [_equality(values, claim, confidence) for claim in claims]


def _equality(values: Values, claim: Claim, confidence: float) -> Equality:
    (a, b), metric, name = claim.cells, claim.metric, METRICS[claim.metric].name
    second, first = paired(values, b, a, metric)
    centre, relative = abs(mean(first) or 0.0), claim.relative_margin
    margin = relative * centre if relative is not None else claim.margin
    assert margin is not None
    refusal = f"{a} and {b} are not shown to be equal in {name}"
    if len(first) < 2:
        refusal += f": {_both(len(first))}"
    elif not margin:
        refusal += f": the mean of {a} is 0, of which no share is a margin"
    if len(first) < 2 or not margin:
        return Equality((a, b), metric, margin, None, None, None, False, f"{refusal}.")
    found = statistics.equivalence(second, first, margin=margin, confidence=confidence)
    if found.low == found.high:
        return _without_spread(claim, found)
    given = "" if relative is None else f" ({words.per_cent(relative)} of {words.value(metric, centre)})"
    amount = f"±{words.difference(metric, margin)}{given}"
    if found.equal:
        told, ends = f"{a} and {b} are equal in {name} within {amount}", "lies inside"
    elif found.low > margin or found.high < -margin:
        told, ends = f"{a} and {b} differ in {name} by more than {amount}", "lies outside"
    else:
        told, ends = f"{refusal} within {amount}", "reaches beyond"
    interval = f"the {words.per_cent(2 * confidence - 1)} interval of {b} minus {a}"
    span = f"{words.interval(metric, found.low, found.high)} over {words.seeds(found.n)}"
    sentence = f"{told}: {interval}, {span}, {ends}."
    return Equality((a, b), metric, margin, found.low, found.high, found.p, found.equal, sentence)


def _without_spread(claim: Claim, found: statistics.Equivalence) -> Equality:
    """What comes of a claim where all seeds have the same difference: shown where that is none at all."""
    (a, b), name, margin = claim.cells, METRICS[claim.metric].name, words.difference(claim.metric, found.margin)
    if found.mean == 0:
        told = f"{a} and {b} are equal in {name} within ±{margin}: it was the same under all {words.seeds(found.n)}."
        return Equality(claim.cells, claim.metric, found.margin, 0.0, 0.0, found.p, found.equal, told)
    told = (
        f"{a} and {b} are not shown to be equal in {name} within ±{margin}: {b} minus {a} was "
        f"{words.difference(claim.metric, found.mean)} under each of {words.seeds(found.n)}; no spread was seen, so "
        "there is no interval."
    )
    return Equality(claim.cells, claim.metric, found.margin, None, None, None, False, told)
